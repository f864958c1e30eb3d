//! Every check has a test with its fault, and every reported failure has a check.

use std::collections::BTreeSet;

use tokenmint::doctor::CHECKS;

use super::{configuration, issuers, keys, online, published, tokens};

/// The thirty failures in Salesforce's pages and field reports, each with the check that finds it.
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

/// The questions of Salesforce's page, each with the check that answers it.
const ASKED: [(&str, &str); 17] = [
    ("the key has kty, kid, alg, x5c", "jwk-members"),
    ("x5c is base64", "jwk-x5c-form"),
    ("each key was uploaded individually", "jwk-single"),
    ("the key follows the JWK structure", "jwk-placeholders"),
    ("the certificate is valid for ten days", "certificate-dates"),
    ("the public certificate, not the private one", "jwk-private"),
    ("keytool prints the certificate", "certificate-form"),
    ("the header has alg, typ, kid", "token-header"),
    ("the body has sub, iss, exp", "token-claims"),
    ("the JWK is in Setup", "jwks-current"),
    ("JWK and JWT have one kid", "token-kid"),
    ("the issuer is the one in Setup", "issuer"),
    ("the JWT was made with the configured JWKS", "token-signature"),
    ("the JWKS is for the private key that signs", "key-pair"),
    ("n and e are base64url", "jwk-numbers"),
    ("public and private half have one key id", "token-kid"),
    ("the uploaded certificate hasn't expired", "certificate-dates"),
];

fn tested() -> BTreeSet<&'static str> {
    let all =
        [keys::CASES, published::CASES, tokens::CASES, issuers::CASES, configuration::CASES, online::CASES];
    all.into_iter().flatten().copied().collect()
}

#[test]
fn every_check_has_a_fixture_with_its_fault() {
    let cases: BTreeSet<&str> = CHECKS.iter().map(|case| case.id).collect();
    assert_eq!(cases.len(), CHECKS.len(), "two cases have one id");
    assert_eq!(tested(), cases);
}

#[test]
fn every_question_of_salesforce_s_page_has_a_check() {
    for (question, id) in ASKED {
        assert!(tested().contains(id), "{question}: {id}");
        let case = CHECKS.iter().find(|case| case.id == id).expect("a case");
        assert!(case.question.starts_with("Salesforce asks: "), "{id}: {}", case.question);
    }
}

#[test]
fn every_reported_failure_has_a_check() {
    for (failure, case) in REPORTED {
        assert!(tested().contains(case), "{failure}: {case}");
    }
    let found: BTreeSet<&str> = REPORTED.iter().map(|(_, case)| *case).collect();
    assert_eq!(found.len(), 30, "one case for each");
}
