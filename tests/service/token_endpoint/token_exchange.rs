//! Token exchange (RFC 8693): an identity token for the user of a subject token.

use super::{NOW, TokenEndpoint, refused};
use crate::issuers::{FakeIssuer, RSA, claims_at, issuer};
use crate::support::{sha256_hex, unverified};

const GRANT: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

async fn start() -> (TokenEndpoint, FakeIssuer) {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let digest = sha256_hex("shop-key");
    let caller = format!(
        "[callers.shop]\napi_key_sha256 = [\"{digest}\"]\nallow = [\"identity.web\", \"identity.shop\"]\n\
         subjects = \"user-[0-9]+\"\nsubject_token = \"required\"\nsubject_issuer = \"corp\"\n"
    );
    (TokenEndpoint::with(&(issuer(&fake.jwks_url()) + &caller)).await, fake)
}

/// The form of the caller `shop`, with other parameters after it.
fn form(subject_token: &str, more: &str) -> String {
    format!(
        "{GRANT}&client_id=shop&client_secret=shop-key&subject_token={subject_token}&subject_token_type={JWT}{more}"
    )
}

fn token(sub: &str) -> String {
    RSA.token("a", &claims_at(NOW, sub))
}

#[tokio::test]
async fn a_subject_token_is_exchanged_for_an_identity_token() {
    let (service, _fake) = start().await;
    for (audience, more) in [
        ("web", ""),
        ("identity.web", ""),
        ("identity.shop", "&requested_token_type=urn:ietf:params:oauth:token-type:jwt"),
    ] {
        let answer = service.form(&form(&token("user-7"), &format!("&audience={audience}{more}"))).await;
        let body = answer.ok();
        assert_eq!([&body["issued_token_type"], &body["token_type"]], [JWT, "N_A"]);
        // The subject token ends in ten minutes, and so does the identity token.
        assert_eq!(body["expires_in"], 600);
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(4), "{body}");
        let (header, claims) = unverified(body["access_token"].as_str().expect("a token"));
        assert_eq!(
            (&header["alg"], &claims["sub"], &claims["iss"]),
            (&"RS256".into(), &"user-7".into(), &"intercom.com".into())
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let id_token =
        form(&token("user-7"), "&audience=web").replace(JWT, "urn:ietf:params:oauth:token-type:id_token");
    service.form(&id_token).await.ok();
    let minted =
        service.metric("tokenmint_tokens_minted_total{caller=\"shop\",profile=\"identity.web\"}").await;
    assert!(minted.ends_with(" 3"), "{minted}");
}

#[tokio::test]
async fn a_refused_token_exchange_has_a_code_of_rfc_8693() {
    let (service, _fake) = start().await;
    let expired = RSA.token("a", &claims_at(NOW - 3600, "user-7"));
    for (sent, field) in [
        (form(&token("user-7"), ""), "audience"),
        (form("a.b.c", "&audience=web"), "subject_token"),
        (form("x", "&audience=web"), "subject_token"),
        (form(&expired, "&audience=web"), "subject_token"),
        // The caller's `subjects` refuses the user.
        (form(&token("admin"), "&audience=web"), "subject_token"),
        (
            form(
                &token("user-7"),
                "&audience=web&requested_token_type=urn:ietf:params:oauth:token-type:access_token",
            ),
            "requested_token_type",
        ),
        (form(&token("user-7"), "&audience=web&audience=shop"), "audience"),
        (form(&token("user-7"), "&audience=web&sub=user-7"), "sub"),
        (form(&token("user-7"), "&audience=web&profile=web"), "profile"),
    ] {
        let answer = service.form(&sent).await;
        refused(&answer, 400, "invalid_request");
        assert_eq!(answer.json()["field"], field, "{}", answer.text);
    }
    for audience in ["identity.plain", "identity.none", "oauth.live", "https://acme.my.salesforce-scrt.com"] {
        let answer = service.form(&form(&token("user-7"), &format!("&audience={audience}"))).await;
        refused(&answer, 400, "invalid_target");
        assert_eq!(answer.json()["field"], "audience");
    }
    let scope = service.form(&form(&token("user-7"), "&audience=web&scope=api")).await;
    refused(&scope, 400, "invalid_scope");
}

#[tokio::test]
async fn a_caller_without_subject_tokens_can_name_nobody() {
    let (service, _fake) = start().await;
    let page = form(&token("user-7"), "")
        .replace("client_id=shop&client_secret=shop-key", "client_id=page&client_secret=page-key");
    let answer = service.form(&page).await;
    let description = refused(&answer, 400, "invalid_request");
    assert!(description.contains("isn't accepted from this caller"), "{description}");
}
