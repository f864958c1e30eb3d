//! Fuzzes `claims` in the requests to each endpoint that accepts them.
//!
//! Invariants:
//! - The extra claims of a token are exactly the requested and allowed ones.
//! - No claim changes the subject, issuer or lifetime of a token.

use std::sync::LazyLock;

use super::FuzzService;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

pub fn test_one_input(data: &[u8]) {
    let around = |before: &str, after: &str| [before.as_bytes(), data, after.as_bytes()].concat();
    SERVICE.ask("/identity-token", &around(r#"{"sub":"user-1","claims":"#, "}"));
    SERVICE.ask("/intercom-user-jwt", &around(r#"{"claims":"#, r#","user_id":"user-1"}"#));
    SERVICE.ask("/hs256-token", &around(r#"{"claims":"#, r#","sub":"user-1"}"#));
    let entries = r#"{"sub":"user-1","claims":{"salesforce_identity_token":"#;
    SERVICE.ask("/bundle", &around(entries, r#","intercom_user_jwt":{"plan":1}}}"#));
}
