//! `[cache]`: the Redis or Valkey server in which replicas share access tokens and login counts, with its timeout and the
//! encryption key.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use url::Url;

use super::names::{is_loopback, validate_text};

/// `[cache]`: where access tokens are cached in addition to each replica's memory.
pub(crate) struct CacheConfig {
    pub(crate) redis: Option<RedisConfig>,
}

/// A Redis or Valkey server (6.2 or later) that all replicas use.
pub(crate) struct RedisConfig {
    pub(crate) url: RedisUrl,
    pub(crate) password: Option<SecretString>,
    /// The key that encrypts the cached tokens.
    pub(crate) key: SecretBox<[u8; 32]>,
    /// The longest time that one command to Redis may take. A request waits for an unresponsive Redis at most once.
    pub(crate) timeout: Duration,
}

impl CacheConfig {
    /// Returns the settings that differ from `other`. All of them need a restart.
    pub(crate) fn restart_only_changes(&self, other: &Self) -> Vec<&'static str> {
        fn password(redis: &RedisConfig) -> Option<&str> {
            redis.password.as_ref().map(SecretString::expose_secret)
        }
        let (Some(ours), Some(theirs)) = (&self.redis, &other.redis) else {
            return if self.redis.is_some() == other.redis.is_some() {
                Vec::new()
            } else {
                vec!["cache.redis"]
            };
        };
        let differences = [
            ("cache.redis.url", ours.url != theirs.url),
            ("cache.redis.password", password(ours) != password(theirs)),
            ("cache.redis.key", ours.key.expose_secret() != theirs.key.expose_secret()),
            ("cache.redis.timeout", ours.timeout != theirs.timeout),
        ];
        differences.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}

/// The address of a Redis server: `rediss://[USER@]HOST[:PORT][/DATABASE]`, or `redis://` on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisUrl {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) database: u16,
}

impl RedisUrl {
    /// Parses an address.
    ///
    /// # Errors
    /// Another form, plaintext outside loopback, or a password in the address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        validate_text(text, 2048)?;
        let url = Url::parse(text).map_err(|_| "isn't a URL; write it whole, `rediss://…`".to_owned())?;
        if url.scheme() != "rediss" && !(url.scheme() == "redis" && is_loopback(&url)) {
            return Err("must begin with rediss:// (redis:// only for loopback)".to_owned());
        }
        if url.password().is_some() {
            return Err("must not hold a password: give `password_file`".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must end with its port or the number of a database".to_owned());
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| "must end with its port or the number of a database")?,
        };
        let user = percent_decode_str(url.username()).decode_utf8();
        let user = user.map_err(|_| "must hold a user name that is UTF-8 text")?;
        Ok(Self {
            tls: url.scheme() == "rediss",
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(6379),
            user: Some(user.into_owned()).filter(|user| !user.is_empty()),
            database,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unencrypted_redis_is_for_loopback_only() {
        for fine in [
            "redis://127.0.0.1",
            "redis://[::1]:1",
            "redis://localhost/3",
            "rediss://app@cache.example:6380/0",
        ] {
            assert!(RedisUrl::parse(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "redis://cache.example",
            "redis://10.0.0.1",
            "redis://127.0.0.1.evil.example",
            "rediss://:pw@cache.example",
            "rediss://cache.example/x",
            "rediss://cache.example?insecure",
            "rediss://cache.example#insecure",
            "http://127.0.0.1",
            "cache.example",
        ] {
            assert!(RedisUrl::parse(wrong).is_err(), "{wrong}");
        }
        let url = RedisUrl::parse("rediss://app@[::1]/2").expect("a URL");
        assert_eq!((url.host.as_str(), url.port, url.database), ("::1", 6379, 2));
        let user = |text: &str| RedisUrl::parse(text).expect("a URL").user;
        assert_eq!(user("rediss://app%40x@cache.example").as_deref(), Some("app@x"));
        assert_eq!(user("rediss://b%C3%BCro@cache.example").as_deref(), Some("b\u{fc}ro"));
        assert_eq!(user("rediss://cache.example"), None);
        assert!(RedisUrl::parse("rediss://%ff@cache.example").is_err());
    }
}
