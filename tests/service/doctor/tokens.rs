//! Checks of JWTs: identity tokens, assertions and Intercom JWTs.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{Given, assertion, claims, jwk, raw_token, seconds, token};
use crate::sandbox::{CONSUMER_KEY, ISSUER, PAIRS, Pair, USER, sign};
use crate::support::sha256_hex;

fn given(token: &str) -> Given {
    Given::nothing().jwk(&PAIRS[0].jwk("Key1")).token(token)
}

fn claiming(changes: &Value) -> Given {
    given(&token(changes))
}

fn headed(header: &Value) -> Given {
    given(&raw_token(header, &claims().to_string()))
}

fn symmetric(claims: &Value, secret: &str) -> String {
    let header =
        Header { kid: claims.get("iss").map(|_| "Key1".to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()).expect("a secret"))
        .expect("a token")
}

fn intercom(claims: &Value) -> Given {
    Given::nothing().token(&symmetric(claims, "a-secret-of-the-messenger-0123456789"))
}

pub const ZENDESK_SECRET: &str = "zendesk-messaging-secret-0123456789";

/// A configuration with `[hs256.zendesk]`.
pub fn with_zendesk() -> Given {
    let profile = format!(
        "[hs256.zendesk]\nsecret = \"{ZENDESK_SECRET}\"\nsubject_claim = \"external_id\"\nkid = \"app_1\"\n\
         fixed_claims = {{ scope = \"user\" }}\n[callers.web]"
    );
    Given::configured(&[("[callers.web]", &profile)])
}

/// A configuration that mints nothing for Salesforce.
fn without_keysets() -> Given {
    let given = Given::nothing();
    given.workspace.configure(&format!(
        "[intercom.fin]\nsecret = \"{ZENDESK_SECRET}\"\n\
         [callers.web]\napi_key_sha256 = [\"{}\"]\nallow = [\"intercom.fin\"]\n",
        sha256_hex("an API key")
    ));
    given
}

/// A token with this `kid`, made with this secret.
pub fn zendesk_token(claims: &Value, kid: &str, secret: &str) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()).expect("a secret"))
        .expect("a token")
}

fn zendesk(claims: &Value) -> Given {
    with_zendesk().token(&zendesk_token(claims, "app_1", ZENDESK_SECRET))
}

fn lived(from: i64, seconds: i64) -> Given {
    let issued = super::seconds() + from;
    claiming(&json!({"iat": issued, "exp": issued + seconds}))
}

/// An assertion with these claims changed, without a key to verify it.
fn asserting(changes: &Value) -> Given {
    Given::nothing().token(&assertion(changes))
}

/// An assertion of the configured app with these claims changed.
fn of_crm(changes: &Value) -> String {
    let mut claims = json!({
        "iss": CONSUMER_KEY, "sub": "integration@acme.com", "aud": "https://acme.my.salesforce.com",
        "exp": seconds() + 150,
    });
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    sign(&PAIRS[1], Algorithm::RS256, None, &claims)
}

faults! {
    a_token_that_could_be_for_two_things: "token-kind", warn, "it may as well be an assertion",
        claiming(&json!({
            "sub": "a@acme.example", "aud": "https://acme.my.salesforce.com", "iat": seconds(), "exp": seconds() + 300,
        }));
    a_key_id_that_is_a_number: "token-header", fail, "its `kid` is a number, not text",
        headed(&json!({"alg": "RS256", "typ": "JWT", "kid": 1}));
    an_issuer_that_differs_in_several_ways: "issuer", fail, "white space and the `https://` before it and upper and lower case",
        claiming(&json!({"iss": " ACME.example"})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_issuer_with_a_line_break_at_its_end: "issuer", fail, "begins or ends with white space",
        claiming(&json!({"iss": format!("{ISSUER}\n")})).refused("byte for byte");
    a_wholly_other_issuer_than_setup_s: "issuer", fail, "and the keyset's `intercom.com`",
        claiming(&json!({})).with(&["--issuer", "intercom.com"]);
    an_assertion_of_no_consumer_key: "consumer-key", fail, "no consumer key: these begin with 3MVG9",
        asserting(&json!({"iss": "my-app"}));
    an_assertion_of_an_app_s_address: "consumer-key", fail, "no consumer key",
        asserting(&json!({"iss": "https://acme.example", "aud": "https://login.salesforce.com"}));
    an_assertion_of_an_app_for_itself: "consumer-key", fail, "its `iss` and its `sub` are consumer keys",
        asserting(&json!({"sub": CONSUMER_KEY}));
    an_assertion_of_an_app_with_a_consumer_key_of_its_own: "consumer-key", warn, "named in an app's metadata",
        asserting(&json!({"iss": "PlatformCLI"}));
    an_assertion_that_lives_for_a_day: "lifetime", warn, "lives for 24 hours",
        asserting(&json!({"exp": seconds() + 86_460}));
    an_assertion_in_milliseconds: "token-expiry", warn, "milliseconds",
        asserting(&json!({"exp": seconds() * 1000 + 300}));
    an_assertion_for_a_sandbox_s_user_in_production: "audience", warn, "looks like a sandbox's user",
        asserting(&json!({"aud": "https://login.salesforce.com", "sub": "me@acme.com.uat"}));
    an_assertion_for_a_user_name_with_a_blank: "username", fail, "white space",
        asserting(&json!({"sub": "me @acme.com"}));
    an_identity_token_that_reads_like_an_assertion: "token-kind", warn, "it may as well be an assertion",
        claiming(&json!({
            "iss": "tokenmint", "sub": "me@acme.com", "aud": "https://acme.my.salesforce.com", "iat": seconds(),
            "exp": seconds() + 3600,
        }));
    a_token_that_ends_before_it_begins: "lifetime", fail, "it was never valid",
        claiming(&json!({"iat": seconds() + 170, "exp": seconds() + 10}));
    a_token_of_a_time_that_no_clock_has: "token-expiry", fail, "it expired",
        given(&raw_token(
            &json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"}),
            &format!(r#"{{"iss":"{ISSUER}","sub":"user-1","iat":-1e300,"exp":{}}}"#, seconds() - 30),
        ));
    a_time_of_issue_as_text: "token-not-yet", fail, "its `iat` is a string, not a number",
        claiming(&json!({"iat": "1795176000"}));
    an_audience_that_is_no_text: "token-claims", fail, "its `aud` is a number, not text",
        claiming(&json!({"aud": 5}));
    an_audience_of_nobody: "token-claims", fail, "its `aud` is an empty array",
        claiming(&json!({"aud": []}));
    an_audience_with_an_entry_that_is_no_text: "token-claims", fail, "its `aud` is a number, not text",
        claiming(&json!({"aud": ["https://acme.my.salesforce.com", 5]}));
    another_audience_than_the_profile_s: "audience", warn, "isn't `audience` of [identity.NAME]: `https://acme.my.salesforce-scrt.com`",
        Given::configured(&[("ttl = \"1h\"", "ttl = \"1h\"\naudience = \"https://acme.my.salesforce-scrt.com\"")])
            .token(&token(&json!({"aud": "https://other.my.salesforce-scrt.com"})));
    an_assertion_for_another_org_than_the_profile_s: "audience", fail, "the audience belongs to one org, and the host to another",
        Given::configured(&[]).token(&of_crm(&json!({"aud": "https://other.my.salesforce.com"})));
    an_assertion_for_another_user_than_the_profile_s: "username", warn, "`username` of its profile `integration@acme.com`",
        Given::configured(&[]).token(&of_crm(&json!({"sub": "other@acme.com"})));
    a_token_without_its_end: "token-signature", fail, "its signature has 246 octets",
        given(&{ let whole = token(&json!({})); whole[..whole.len() - 14].to_owned() }).refused("doesn't verify");
    a_token_behind_a_no_break_space: "text", warn, "a no-break space",
        Given::nothing().token(&format!("{}\u{a0}", token(&json!({})))).refused("");
    an_expiry_in_another_age: "token-expiry", fail, "years ahead",
        claiming(&json!({"exp": seconds() + 16_000_000_000_i64}));
    a_token_of_a_retired_key: "token-kid", fail, "a key that was retired",
        {
            let given = Given::configured(&[]);
            let old = "[[key]]\nkid = \"Key1\"\nadded = 2026-01-01T00:00:00Z\nsign_from = 2026-01-03T00:00:00Z\n\
                       retired = 2026-02-01T00:00:00Z\n";
            let new = "[[key]]\nkid = \"Key2\"\nadded = 2026-01-01T00:00:00Z\nsign_from = 2026-01-04T00:00:00Z\n";
            given.workspace.write("keys/identity/keyset.toml", &format!("{old}{new}"));
            given.workspace.write_key("keys/identity/Key2.key", &crate::support::KEYS.spare[0]);
            given.jwk(&PAIRS[0].jwk("Key1")).token(&token(&json!({})))
        };
    a_token_within_a_token: "token-header", warn, "its header has `cty`",
        headed(&json!({"alg": "RS256", "typ": "JWT", "kid": "Key1", "cty": "JWT"}));
    a_token_of_another_type: "token-header", warn, "its `typ` is `at+jwt`, not `JWT`",
        headed(&json!({"alg": "RS256", "typ": "at+jwt", "kid": "Key1"}));
    an_issuer_with_an_invisible_character: "issuer", fail, "https://acme.example\\u{200b}`, the keyset's `https://acme.example`: invisible",
        claiming(&json!({"iss": format!("{ISSUER}\u{200b}")})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_assertion_with_issuer_and_subject_swapped: "consumer-key", fail, "they are swapped",
        asserting(&json!({"iss": USER, "sub": CONSUMER_KEY}));
    an_assertion_of_another_app_than_the_configuration_s: "consumer-key", fail, "of no [oauth] profile",
        Given::configured(&[]).token(&sign(&PAIRS[1], Algorithm::RS256, None, &json!({
            "iss": "3MVG9.another", "sub": USER, "aud": "https://acme.my.salesforce.com", "exp": seconds() + 150,
        })));
    an_assertion_for_a_user_s_id: "username", fail, "that is a user's id",
        asserting(&json!({"sub": "005000000000001AAA"}));
    an_assertion_with_a_line_break_behind_its_user: "username", fail, "white space",
        asserting(&json!({"sub": format!("{USER}\n")}));
    an_assertion_for_several_audiences: "audience", fail, "its `aud` is an array",
        asserting(&json!({"aud": ["https://login.salesforce.com"]}));
    an_assertion_for_lightning: "audience", fail, "a host of pages for signed-in users",
        asserting(&json!({"aud": "https://acme.lightning.force.com"}));
    an_assertion_for_a_host_without_tls: "audience", fail, "`http:` instead of `https:`",
        asserting(&json!({"aud": "http://login.salesforce.com"}));
    an_assertion_for_a_sandbox_s_old_host: "audience", fail, "it is acme--uat.sandbox.my.salesforce.com now",
        asserting(&json!({"aud": "https://acme--uat.cs42.my.salesforce.com"}));
    an_assertion_for_a_host_with_a_typing_error: "audience", fail, "a typo?",
        asserting(&json!({"aud": "https://login.salesfroce.com"}));
    an_assertion_with_a_line_break_behind_its_audience: "audience", fail, "white space at the start or end",
        asserting(&json!({"aud": "https://login.salesforce.com\n"}));
    an_assertion_for_an_audience_in_capitals: "audience", fail, "not in the normal form",
        asserting(&json!({"aud": "https://Login.Salesforce.com"}));
    an_intercom_token_of_nobody: "intercom", fail, "names nobody",
        intercom(&json!({"user_id": "null", "exp": seconds() + 600}));
    an_intercom_token_that_a_broken_page_asked_for: "intercom", fail, "names nobody",
        intercom(&json!({"user_id": "undefined", "exp": seconds() + 600}));
    an_intercom_token_with_two_faults: "intercom", fail, "isn't signed in; its `alg` isn't HS256",
        Given::nothing().token(&raw_token(&json!({"alg": "RS256", "typ": "JWT"}), &json!({
            "user_id": "null", "exp": seconds() + 600,
        }).to_string()));
    a_token_behind_the_words_of_salesforce_s_utility: "text", warn, "`JWT : `",
        Given::nothing().token(&format!("JWT : {}", token(&json!({})))).refused("");
    a_token_in_quotes: "text", warn, "in quotes",
        Given::nothing().token(&format!("\"{}\"", token(&json!({})))).refused("");
    an_encrypted_token: "text", fail, "encrypted",
        Given::nothing().token("eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d").refused("");
    a_header_without_a_key_id: "token-header", fail, "lacks `kid`",
        headed(&json!({"alg": "RS256", "typ": "JWT"})).refused("no `kid` in its header");
    a_header_without_its_type: "token-header", warn, "lacks `typ`",
        headed(&json!({"alg": "RS256", "kid": "Key1"}));
    a_header_with_critical_extensions: "token-header", fail, "`crit`",
        headed(&json!({"alg": "RS256", "typ": "JWT", "kid": "Key1", "crit": ["b64"], "b64": true}));
    a_token_of_nobody_s: "token-claims", fail, "lacks `sub`",
        claiming(&json!({"sub": null})).refused("has no `sub`");
    a_token_of_no_issuer: "token-claims", fail, "lacks `iss`",
        claiming(&json!({"iss": null})).refused("has an `iss` that isn't");
    a_token_that_never_expires: "token-claims", fail, "lacks `exp`",
        claiming(&json!({"exp": null})).refused("has no `exp`");
    a_token_with_a_claim_twice: "token-claims", fail, "has `sub` twice",
        given(&raw_token(
            &json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"}),
            &claims().to_string().replacen('{', "{\"sub\":\"somebody\",", 1),
        ));
    an_assertion_without_an_audience: "token-claims", fail, "lacks `aud`",
        Given::nothing().token(&assertion(&json!({"aud": null}))).refused("audience is invalid");
    an_identity_token_signed_with_a_shared_secret: "token-algorithm", fail, "HS256",
        given(&symmetric(&claims(), "a-secret")).refused("other than RS256 and RS512");
    a_token_signed_in_another_way_than_its_jwk_says: "token-algorithm", fail, "that of its JWK RS256",
        given(&sign(&PAIRS[0], Algorithm::RS512, Some("Key1"), &claims())).refused("another `alg` than its JWK");
    a_key_id_in_other_letters: "token-kid", fail, "`key1`",
        Given::nothing().jwk(&jwk(|jwk| jwk["kid"] = json!("key1"))).token(&token(&json!({})))
            .refused("a `kid` that no key of the keyset has");
    a_configured_key_uploaded_under_another_id: "token-kid", fail, "under the id `Key2`",
        Given::configured(&[]).jwk(&jwk(|jwk| jwk["kid"] = json!("Key2"))).refused("a `kid` that no key");
    an_issuer_with_a_slash_at_its_end: "issuer", fail, "a slash at the end",
        claiming(&json!({"iss": format!("{ISSUER}/")})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_issuer_in_other_letters: "issuer", fail, "upper and lower case",
        claiming(&json!({"iss": "https://ACME.example"})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_issuer_without_its_scheme: "issuer", fail, "the `https://` before it",
        claiming(&json!({"iss": "acme.example"})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_issuer_with_white_space: "issuer", fail, "white space",
        claiming(&json!({"iss": format!("{ISSUER} ")})).with(&["--issuer", ISSUER]).refused("byte for byte");
    an_issuer_that_looks_wrong_by_itself: "issuer", warn, "ends with a slash",
        claiming(&json!({"iss": format!("{ISSUER}/")})).refused("byte for byte");
    an_issuer_that_is_no_text: "issuer", fail, "is a number",
        claiming(&json!({"iss": 5})).refused("byte for byte");
    another_issuer_than_the_configuration_s: "issuer", fail, "a slash at the end",
        Given::configured(&[]).token(&token(&json!({"iss": format!("{ISSUER}/")}))).refused("byte for byte");
    an_expired_token: "token-expiry", fail, "it expired",
        lived(-700, 600).refused("has expired");
    an_expiry_in_milliseconds: "token-expiry", fail, "milliseconds",
        claiming(&json!({"exp": (seconds() + 600) * 1000}));
    an_expiry_as_text: "token-expiry", fail, "is a string",
        claiming(&json!({"exp": "6000"})).refused("no `exp` that is a number");
    a_duration_instead_of_a_moment: "token-expiry", fail, "a duration",
        claiming(&json!({"exp": 6000})).refused("has expired");
    an_expired_assertion: "token-expiry", fail, "it expired",
        Given::nothing().token(&assertion(&json!({"exp": seconds() - 10}))).refused("expired authorization code");
    a_token_of_tomorrow: "token-not-yet", fail, "`nbf` lies",
        claiming(&json!({"nbf": seconds() + 3600}));
    a_token_issued_in_milliseconds: "token-not-yet", fail, "`iat` lies",
        claiming(&json!({"iat": seconds() * 1000}));
    a_token_from_a_fast_clock: "token-not-yet", fail, "`iat` lies",
        lived(600, 600);
    a_life_below_browsers_clock_errors: "lifetime", warn, "less than the error of some browsers' clocks",
        lived(0, 200);
    a_life_beyond_the_channel_s_session: "lifetime", warn, "longer than a channel's session",
        lived(0, 7200);
    a_subject_that_is_empty: "subject", fail, "is empty",
        claiming(&json!({"sub": ""})).refused("has no `sub`");
    a_subject_that_a_broken_page_sent: "subject", fail, "names nobody",
        claiming(&json!({"sub": "undefined"}));
    a_subject_that_is_a_number: "subject", fail, "is a number",
        claiming(&json!({"sub": 42})).refused("has no `sub`");
    an_intercom_token_without_a_user: "intercom", fail, "has no `user_id`",
        intercom(&json!({"email": "a@acme.example", "exp": seconds() + 600}));
    an_intercom_token_whose_user_is_a_number: "intercom", fail, "a number",
        intercom(&json!({"user_id": 42, "exp": seconds() + 600}));
    an_intercom_token_that_never_expires: "intercom", warn, "has no `exp`",
        intercom(&json!({"user_id": "42"}));
    an_intercom_token_made_with_another_platform_s_secret: "intercom-secret", fail, "no Messenger API secret",
        Given::configured(&[]).token(&symmetric(&json!({"user_id": "42", "exp": seconds() + 600}), "another"));
    an_identity_token_beside_a_configuration_without_such_a_profile: "token-signature", fail,
        "no [identity.NAME] of the configuration has a key", without_keysets().token(&token(&json!({})));
    an_intercom_token_beside_a_configuration_without_such_a_profile: "intercom-secret", fail,
        "the configuration has no [intercom.NAME] whose secret", {
            let given = Given::configured(&[("[intercom.fin]", "[hs256.fin]\nsubject_claim = \"external_id\""), ("intercom.fin", "hs256.fin")]);
            given.token(&symmetric(&json!({"user_id": "42", "exp": seconds() + 600}), ZENDESK_SECRET))
        };
    a_token_of_an_hs256_profile_of_nobody: "hs256", fail, "names nobody",
        zendesk(&json!({"external_id": "null", "scope": "user", "exp": seconds() + 600}));
    a_token_of_an_hs256_profile_without_its_user: "hs256", fail, "has no `external_id`",
        zendesk(&json!({"user_id": "42", "scope": "user", "exp": seconds() + 600}));
    a_token_of_an_hs256_profile_that_never_expires: "hs256", warn, "has no `exp`",
        zendesk(&json!({"external_id": "42", "scope": "user"}));
    a_token_of_an_hs256_profile_made_with_another_secret: "hs256-secret", fail, "no shared secret of the configuration",
        with_zendesk().token(&zendesk_token(
            &json!({"external_id": "42", "exp": seconds() + 600}), "app_1", "another-secret-0123456789-0123456789",
        ));
    a_token_of_an_hs256_profile_with_the_id_of_another_secret: "hs256-secret", fail, "its `kid` isn't the profile's",
        with_zendesk().token(&zendesk_token(
            &json!({"external_id": "42", "exp": seconds() + 600}), "app_2", ZENDESK_SECRET,
        ));
    a_token_of_an_hs256_profile_without_a_fixed_claim: "hs256-secret", fail, "it lacks `scope` of `fixed_claims`",
        zendesk(&json!({"external_id": "42", "exp": seconds() + 600}));
    a_token_of_an_hs256_profile_with_another_fixed_claim: "hs256-secret", fail, "its `scope` isn't the one of `fixed_claims`",
        zendesk(&json!({"external_id": "42", "scope": "admin", "exp": seconds() + 600}));
    an_assertion_for_the_token_endpoint_and_not_its_host: "audience", fail, "the address of the token endpoint",
        Given::nothing()
            .token(&assertion(&json!({"aud": "https://acme.my.salesforce.com/services/oauth2/token"})))
            .refused("audience is invalid");
    an_assertion_whose_audience_ends_with_a_slash: "audience", fail, "a slash at the end",
        Given::nothing().token(&assertion(&json!({"aud": "https://acme.my.salesforce.com/"})))
            .refused("audience is invalid");
}

#[test]
fn an_assertion_beside_a_configuration_without_such_a_profile_is_not_called_good() {
    let (code, findings) = without_keysets().token(&assertion(&json!({}))).examined();
    let [finding] = findings.as_slice() else { panic!("one finding: {findings:#?}") };
    assert_eq!((code, &finding["check"]), (1, &json!("token-signature")));
    let seen = finding["seen"].as_str().expect("text");
    assert!(seen.starts_with("no [oauth.NAME] of the configuration has a key"), "{seen}");
}

/// The question and the fix name what the relying party of the token has: a JWK, an app's certificate or a secret.
#[test]
fn a_rejected_signature_has_the_fix_of_its_kind_of_token() {
    let forged = |pair: &Pair, kid: Option<&str>, claims: &Value| sign(pair, Algorithm::RS256, kid, claims);
    let assertion = json!({
        "iss": CONSUMER_KEY, "sub": "integration@acme.com", "aud": "https://acme.my.salesforce.com",
        "exp": seconds() + 150,
    });
    let intercom = symmetric(&json!({"user_id": "42", "exp": seconds() + 600}), "another");
    let messaging = ["Messaging", "Enhanced Chat User Verification"];
    for (token, check, fits, others) in [
        (forged(&PAIRS[1], Some("Key1"), &claims()), "token-signature", &messaging[..], &["the app"][..]),
        (forged(&PAIRS[0], None, &assertion), "token-signature", &["certificate", "the app"], &messaging),
        (intercom, "intercom-secret", &["Messenger API secret", "secret_file"], &messaging),
    ] {
        let (code, findings) = Given::configured(&[]).token(&token).examined();
        assert_eq!(code, 1);
        let finding = findings.iter().find(|finding| finding["check"] == check).expect("a finding");
        let said = format!("{} {}", finding["answers"], finding["fix"]);
        assert!(fits.iter().all(|part| said.contains(part)), "{said}");
        assert!(!others.iter().any(|part| said.contains(part)), "{said}");
    }
}

/// A token of an hour that has just expired is an hour old. That is no sign of a wrong clock.
#[test]
fn a_clock_hours_behind_is_reported_as_a_possibility_only() {
    for (issued, life, is_said) in
        [(-7200, 600, true), (-3630, 3600, true), (-700, 600, false), (-5400, 600, false)]
    {
        let (code, findings) = lived(issued, life).examined();
        assert_eq!(code, 1);
        let [finding] = findings.as_slice() else { panic!("one finding: {findings:#?}") };
        assert!(finding["seen"].as_str().is_some_and(|seen| seen.starts_with("it expired")), "{finding}");
        let fix = finding["fix"].as_str().expect("advice");
        assert_eq!(fix.contains("If this one was made just now"), is_said, "{issued}: {fix}");
    }
}
