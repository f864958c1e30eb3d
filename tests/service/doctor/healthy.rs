//! Sound inputs have no finding. Otherwise the tests of single faults would prove nothing.

use axum::http::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};
use tokenmint::sandbox::KeySource;

use super::online::{asking, dateless, good_set, org, played, published, shown};
use super::tokens::{ZENDESK_SECRET, with_zendesk, zendesk_token};
use super::{Given, certificate, certificate_of, chain, claims, good_certificate, raw_token, utility_jwk};
use crate::sandbox::{PAIRS, Publisher, TOKEN};

/// Like the Rails helper of Intercom's page makes it, with header and claims in its order.
fn rails_token() -> String {
    let mut claims = claims();
    claims["aud"] = json!("https://acme.my.salesforce-scrt.com");
    claims["exp"] = json!(super::seconds() + 3600);
    raw_token(&json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"}), &claims.to_string())
}

#[test]
fn a_sound_configuration_has_no_finding() {
    Given::configured(&[]).is_well();
}

#[test]
fn sound_files_from_before_tokenmint_have_no_finding_alone_or_together() {
    let key = |given: Given| given.file("Key1.key", &PAIRS[0].pem);
    let certificate = |given: Given| given.file("Key1.crt", &good_certificate());
    let jwk = |given: Given| given.jwk(&utility_jwk());
    let token = |given: Given| given.token(&rails_token());
    key(Given::nothing()).is_well();
    certificate(Given::nothing()).is_well();
    jwk(Given::nothing()).is_well();
    token(Given::nothing()).is_well();
    token(jwk(certificate(key(Given::nothing())))).is_well();
    token(jwk(Given::configured(&[]))).is_well();
}

#[test]
fn a_chain_in_its_order_has_no_finding() {
    let (own, next) = (certificate(-1, 730, |_| ()), certificate_of(&PAIRS[1], -1, 730, |_| ()));
    Given::nothing().file("Key1.key", &PAIRS[0].pem).file("Key1.crt", &chain(&[&own, &next])).is_well();
}

/// The secret tells Zendesk's token from Intercom's, which has the same claim.
#[test]
fn a_sound_token_of_an_hs256_profile_has_no_finding() {
    let claims =
        json!({"external_id": "42", "user_id": "42", "scope": "user", "exp": super::seconds() + 600});
    let token = zendesk_token(&claims, "app_1", ZENDESK_SECRET);
    with_zendesk().token(&token).is_well();
    with_zendesk().token(&token).with(&["--as", "hs256"]).is_well();
}

/// Absent values like serializers write them, and a claim that Intercom uses, too.
#[test]
fn sound_files_that_look_like_something_else_have_no_finding() {
    Given::nothing().jwk(&super::jwk(|jwk| jwk["d"] = json!(null))).is_well();
    let mut claims = claims();
    claims["user_id"] = json!("42");
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"});
    Given::nothing().jwk(&PAIRS[0].jwk("Key1")).token(&raw_token(&header, &claims.to_string())).is_well();
}

/// The previous or the next key: a public key alone is no fault.
#[test]
fn a_jwk_beside_the_pair_of_another_key_has_no_finding() {
    let given = Given::nothing().file("Key1.key", &PAIRS[0].pem).jwk(&PAIRS[0].jwk("Key1"));
    let given = given.file("old.jwk", &certificate_of(&PAIRS[1], -1, 730, |_| ()).jwk("Old").to_string());
    given.is_well();
    let skipped = given.not_looked_at();
    let is_pair = |skipped: &Value| skipped["check"] == "key-pair" && skipped["about"] == "old.jwk";
    assert!(skipped.iter().any(is_pair), "{skipped:#?}");
}

/// Every form of a configured key, under any file name, and the JWK Set that publishes it beside another key.
#[test]
fn every_half_of_a_configured_key_is_recognized() {
    let given = Given::configured(&[])
        .file("a.key", &PAIRS[0].pem)
        .file("a.crt", &good_certificate())
        .file("a.pem", &super::keys::public_key(&PAIRS[0]))
        .file("a.jwk", &PAIRS[0].jwk("Key1").to_string());
    given.is_well();
    let given = Given::configured(&[])
        .file("a.crt", &good_certificate())
        .file("a.pem", &super::keys::public_key(&PAIRS[1]))
        .file("a.jwk", &PAIRS[1].jwk("CrmKey1").to_string())
        .with(&["--jwks", "set.json"]);
    let other = super::keys::openssl("rsa:2048").jwk("Other");
    given.workspace.write("set.json", &json!({"keys": [other, PAIRS[0].jwk("Key1")]}).to_string());
    given.is_well();
    let skipped = given.not_looked_at();
    let is_other =
        |skipped: &Value| skipped["check"] == "key-pair" && skipped["about"] == "set.json, `Other`";
    assert!(skipped.iter().any(is_other), "{skipped:#?}");
}

/// Each certificate's signature is verified with the next one, up to the authority.
#[test]
fn every_certificate_of_a_chain_is_checked() {
    let authority = super::keys::named("authority");
    let given = Given::nothing().file("Key1.crt", &chain(&[&super::keys::issued(&authority), &authority]));
    given.is_well();
    let skipped = given.not_looked_at();
    assert!(!skipped.iter().any(|skipped| skipped["check"] == "certificate-form"), "{skipped:#?}");
}

#[test]
fn what_init_writes_has_no_finding() {
    let given = Given::nothing();
    given.workspace.run(&["init", "new", "--issuer", "intercom.com"]).ok();
    given.with(&["--config", "new/tokenmint.toml"]).is_well();
}

/// All servers are configured, and none gets a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_no_request_is_sent() {
    let publisher = Publisher::of(&json!({})).await;
    let there = publisher.url.trim_end_matches("/jwks.json");
    let token_url = format!(
        "audience = \"https://acme.my.salesforce.com\"\ntoken_url = \"{there}/services/oauth2/token\""
    );
    let given = Given::configured(&[
        ("https://tokens.acme.example", there),
        ("https://acme.my.salesforce-scrt.com", there),
        ("audience = \"https://acme.my.salesforce.com\"", &token_url),
    ]);
    given.beside("public-url").is_well();
    assert_eq!(publisher.hits(), 0);
}

/// End to end: the JWKS of the running service, and a sandbox that fetches it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_service_whose_tokens_salesforce_accepts_has_no_finding() {
    let service = Given::configured(&[]).workspace;
    let running = service.serve().await;
    let public = format!("http://{}", running.address("public"));
    let mut org = org();
    org.deployments[0].keys = KeySource::Url(format!("{public}/keysets/web/jwks.json"));
    let mut given = asking(played(org).await, &[]).beside("public-url");
    given.workspace.set("TOKENMINT_SERVER__PUBLIC__URL", &public);
    given.is_well();
    let report = given.run(&["--json"]).json();
    let text = report["findings"].to_string();
    for seen in [
        "answers 200 with a JWK Set, without login or redirect",
        "shows the keys that this configuration publishes",
        "the session is v2/iamessage/AUTH/Web_Verification/uid:tokenmint-doctor",
        "Salesforce gave an access token",
    ] {
        assert!(text.contains(seen), "{text}");
    }
}

/// Optional members that readers may ignore.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_set_with_ignorable_members_has_no_finding() {
    shown(200, &[(LOCATION, "https://tokens.acme.example/jwks.json")], &good_set().to_string())
        .await
        .is_well();
    let own_type = [(CONTENT_TYPE, "Application/JWK-Set+JSON;charset=utf-8")];
    shown(200, &own_type, &good_set().to_string()).await.is_well();

    // The keys of the service in another order and with unknown members.
    let service = Given::configured(&[]).workspace;
    let two = "[[key]]\nkid = \"Key1\"\nsign_from = 2026-01-01T00:00:00Z\n[[key]]\nkid = \"Key2\"\nsign_from = 2099-01-01T00:00:00Z\n";
    let write = |workspace: &crate::support::Workspace| {
        workspace.write_key("keys/identity/Key2.key", &crate::support::KEYS.spare[0]);
        workspace.write("keys/identity/keyset.toml", two);
    };
    write(&service);
    let running = service.serve().await;
    let address = format!("http://{}/keysets/web/jwks.json", running.address("public"));
    let mut set: Value = reqwest::get(&address).await.expect("an answer").json().await.expect("JSON");
    let keys = set["keys"].as_array_mut().expect("keys");
    assert_eq!(keys.len(), 2);
    keys.reverse();
    keys[0]["acme:made"] = json!("by hand");
    set["cached_at"] = json!(1);
    let given = published(&set).await;
    write(&given.workspace);
    given.is_well();
}

/// An answer without a Date header gives no result about the clock, and must not reuse an earlier answer's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_is_judged_by_an_answer_s_own_date() {
    let silent = dateless(400, &json!({"error": "invalid_client_id"})).await;
    let played = played(org()).await;
    let there = played.at(TOKEN);
    let given = asking(played, &[(there.as_str(), &format!("{silent}/services/oauth2/token"))]);
    let skipped = given.not_looked_at();
    let clock: Vec<&Value> = skipped
        .iter()
        .filter(|skipped| skipped["check"] == "clock")
        .map(|skipped| &skipped["about"])
        .collect();
    assert_eq!(clock, ["oauth.crm"]);
}
