//! Fuzzes request bodies through the whole router. The first line of the input names the endpoint, the rest is the body.
//!
//! Invariants:
//! - No response is 5xx or contains a secret.
//! - `sub`, claims and lifetime of a token are exactly the requested ones.
//! - The caller may use the issuer of a token.

use std::sync::LazyLock;

use super::FuzzService;

pub static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::default);

const ROUTES: [&str; 7] = [
    "/identity-token",
    "/oauth-assertion",
    "/intercom-user-jwt",
    "/hs256-token",
    "/bundle",
    "/oauth-access-token",
    "/messaging-access-token",
];

pub fn test_one_input(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, rest) = data.split_at(end);
    let named = ROUTES.into_iter().find(|route| route.as_bytes() == line);
    let route = named
        .unwrap_or_else(|| ROUTES[usize::from(line.first().copied().unwrap_or_default()) % ROUTES.len()]);
    SERVICE.ask(route, rest.get(1..).unwrap_or_default());
}
