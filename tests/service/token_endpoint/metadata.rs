//! `GET /.well-known/oauth-authorization-server` (RFC 8414).

use serde_json::json;

use super::TokenEndpoint;
use crate::issuers::{FakeIssuer, RSA, issuer, jwt_caller};

const PATH: &str = "/.well-known/oauth-authorization-server";

#[tokio::test]
async fn the_metadata_name_the_address_that_the_client_used() {
    let service = TokenEndpoint::start().await;
    let answer = service.get(PATH).await;
    let url = &service.url;
    let expected = json!({
        "issuer": url,
        "token_endpoint": format!("{url}/oauth2/token"),
        "jwks_uri": format!("{url}/.well-known/jwks.json"),
        "grant_types_supported": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    });
    assert_eq!(answer.ok(), expected);
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn the_metadata_name_the_configured_address_and_the_algorithms_of_jwts() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let more = issuer(&fake.jwks_url()) + &jwt_caller("worker", "job-7");
    let service = TokenEndpoint::with(&more).await;
    let path = service.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let with_url = text.replacen("[server]\n", "[server]\nurl = \"https://mint.acme.example\"\n", 1);
    service.workspace.configure(&with_url);
    service.reload();
    let metadata = service.get(PATH).await.ok();
    assert_eq!(metadata["issuer"], "https://mint.acme.example");
    assert_eq!(metadata["token_endpoint"], "https://mint.acme.example/oauth2/token");
    let methods = json!(["client_secret_basic", "client_secret_post", "private_key_jwt"]);
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], methods);
    let algorithms = json!(["ES256", "RS256"]);
    assert_eq!(metadata["token_endpoint_auth_signing_alg_values_supported"], algorithms);
}
