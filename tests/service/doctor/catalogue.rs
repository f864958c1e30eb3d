//! No check without a test: each case has a fixture with that fault, and each row of the failures that people report
//! has a case.

use std::collections::BTreeSet;

use tokenmint::doctor::CASES;

use super::{configuration, keys, online, published, tokens};

/// The thirty failures that Salesforce's pages and field reports know, each with the case that finds it.
const REPORTED: [(&str, &str); 30] = [
    ("a JWK without x5c", "jwk-x5c"),
    ("the certificate has expired, or has fewer than ten days left", "certificate-dates"),
    ("a set of keys was uploaded instead of one", "jwk-single"),
    ("JWK or certificate are not the private key's", "key-pair"),
    ("n or e aren't base64url", "jwk-numbers"),
    ("x5c is base64url or PEM text", "jwk-x5c-form"),
    ("kid differs", "token-kid"),
    ("iss differs by a slash, by case, by white space", "issuer"),
    ("a cached token, and a page that asks without end", "runaway-page"),
    ("exp in milliseconds, as text, as a duration, in local time", "token-expiry"),
    ("a lifetime below clocks' errors, or above the channel's", "lifetime"),
    ("no active AuthSchemes", "auth-schemes"),
    ("the JWKS URL is behind a login, a redirect, or down", "jwks-reachable"),
    ("Set the auth mode to false", "verification-mode"),
    ("the deployment's name, or it isn't published", "deployment"),
    ("the wrong host instead of the scrt URL", "scrt-url"),
    ("the org's id", "org-id"),
    ("audience is invalid", "audience"),
    ("app_not_found", "audience-host"),
    ("user hasn't approved this consumer", "preauthorized"),
    ("an e-mail address instead of the user name", "username"),
    ("invalid assertion: the key's form", "key-form"),
    ("\"d\":\"d\" in the JWK of Salesforce's utility", "jwk-placeholders"),
    ("a certificate that an app refuses, or that is for ever", "app-certificate"),
    ("rate limits", "limits"),
    ("Intercom's 403 and 400", "intercom"),
    ("a new app isn't known yet", "app-propagation"),
    ("a weak key, or one of another kind", "key-strength"),
    ("one subject for several people", "subject"),
    ("one key behind two doors", "separate-keys"),
];

fn tested() -> BTreeSet<&'static str> {
    let all = [keys::CASES, published::CASES, tokens::CASES, configuration::CASES, online::CASES];
    all.into_iter().flatten().copied().collect()
}

#[test]
fn every_check_has_a_fixture_with_its_fault() {
    let cases: BTreeSet<&str> = CASES.iter().map(|case| case.id).collect();
    assert_eq!(cases.len(), CASES.len(), "two cases have one id");
    assert_eq!(tested(), cases);
}

#[test]
fn every_reported_failure_has_a_check() {
    for (failure, case) in REPORTED {
        assert!(tested().contains(case), "{failure}: {case}");
    }
    let found: BTreeSet<&str> = REPORTED.iter().map(|(_, case)| *case).collect();
    assert_eq!(found.len(), 30, "one case for each");
}
