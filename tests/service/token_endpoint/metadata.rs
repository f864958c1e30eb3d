//! `GET /.well-known/oauth-authorization-server` (RFC 8414).

use serde_json::json;

use super::TokenEndpoint;
use crate::support::Answer;

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
async fn the_metadata_name_the_host_of_the_request_or_the_configured_address() {
    let service = TokenEndpoint::start().await;
    let of_host =
        |host: &str| Answer::of(service.client.get(format!("{}{PATH}", service.url)).header("host", host));
    assert_eq!(of_host("mint.internal:8080").await.ok()["issuer"], "http://mint.internal:8080");
    for invalid in
        ["[::1", "a%00b", "evil.example:99999", "evil.example/path", "a b", "a\"b", "user@evil.example"]
    {
        assert_eq!(of_host(invalid).await.status.as_u16(), 400, "{invalid}");
    }
    let path = service.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let with_url = text.replacen("[server]\n", "[server]\nurl = \"https://mint.acme.example\"\n", 1);
    service.workspace.configure(&with_url);
    service.reload();
    let metadata = of_host("evil.example").await.ok();
    assert_eq!(metadata["issuer"], "https://mint.acme.example");
    assert_eq!(metadata["token_endpoint"], "https://mint.acme.example/oauth2/token");
    assert_eq!(metadata["jwks_uri"], "https://mint.acme.example/.well-known/jwks.json");
}
