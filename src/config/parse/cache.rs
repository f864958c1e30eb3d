//! Parses `[cache]`: the Redis or Valkey server that replicas share.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use zeroize::Zeroizing;

use super::super::section::Section;
use super::super::values::parse_string;
use super::super::{CacheConfig, RedisConfig, RedisUrl};
use super::InvalidSection;
use super::callers::decode_hex32;

/// Returns `None` if a problem was reported.
pub(super) fn parse_cache(section: Option<&Section<'_>>) -> Option<CacheConfig> {
    let redis = section.and_then(|section| section.section("redis"));
    let redis = redis.map(|redis| parse_redis(&redis).ok_or(InvalidSection)).transpose();
    redis.ok().map(|redis| CacheConfig { redis })
}

fn parse_redis(section: &Section<'_>) -> Option<RedisConfig> {
    let url = section.required(
        "url",
        |node| RedisUrl::parse(&parse_string(node)?),
        "rediss://HOST:PORT of the Redis or Valkey server",
    );
    let password = section.secret("password", "password_file");
    let key = section.secret("key", "key_file");
    let timeout = section.duration_or_default("timeout");
    let name = if section.has("key_file") { "key_file" } else { "key" };
    if !section.has(name) {
        section
            .problem(name, "is missing: it encrypts the cached tokens. Generate one: openssl rand -hex 32");
    }
    let complete =
        !["password", "password_file"].into_iter().any(|name| section.has(name)) || password.is_some();
    let key = key.and_then(|secret| {
        let key = decode_cache_key(&secret);
        if key.is_none() {
            section.problem(name, "must be 32 random bytes, in hex or base64: openssl rand -hex 32");
        }
        key
    });
    Some(RedisConfig { url: url?, password: complete.then_some(password)?, key: key?, timeout })
}

fn decode_cache_key(secret: &SecretString) -> Option<SecretBox<[u8; 32]>> {
    let text = secret.expose_secret();
    let from_base64 = || {
        let text = text.trim_end_matches('=');
        let decoded = STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text));
        Zeroizing::new(decoded.ok()?).as_slice().try_into().ok()
    };
    decode_hex32(text).or_else(from_base64).map(|key| SecretBox::new(Box::new(key)))
}
