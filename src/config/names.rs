//! Validated types for names, patterns and addresses of the configuration.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;

use regex::Regex;
use serde::Serialize;
use url::{Host, Url};

use super::hs256::Hs256Kind;

/// The name of a keyset, profile, bundle or caller: 1 to 64 of `A-Z a-z 0-9 _ -`.
///
/// Names become metric labels and parts of URLs, so no other characters are allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Validates a name.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("names are 1 to 64 letters, digits, `_` or `-`".to_owned())
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of token or bundle that a caller may request: the part before the dot in `identity.web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProfileKind {
    Identity,
    Oauth,
    Hs256(Hs256Kind),
    Bundle,
}

impl ProfileKind {
    pub(crate) const ALL: &[Self] = &{
        let mut all = [Self::Bundle; 3 + Hs256Kind::ALL.len()];
        (all[0], all[1]) = (Self::Identity, Self::Oauth);
        let mut at = 0;
        while at < Hs256Kind::ALL.len() {
            all[2 + at] = Self::Hs256(Hs256Kind::ALL[at]);
            at += 1;
        }
        all
    };

    /// The name of the kind's section in the configuration.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Oauth => "oauth",
            Self::Hs256(kind) => kind.facts().section,
            Self::Bundle => "bundles",
        }
    }

    /// Whether a bundle can hold its tokens.
    pub(crate) const fn is_bundled(self) -> bool {
        matches!(self, Self::Identity | Self::Hs256(_))
    }

    /// The full names that profiles of `kinds` can have, for people.
    pub(crate) fn forms(kinds: impl Iterator<Item = Self>) -> String {
        let forms: Vec<String> = kinds.map(|kind| format!("`{}.NAME`", kind.section())).collect();
        match forms.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            forms => forms.concat(),
        }
    }
}

/// The full name of a profile or bundle, for example `identity.web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName {
    pub kind: ProfileKind,
    pub bare_name: Name,
    full: String,
}

impl ProfileName {
    pub fn new(kind: ProfileKind, name: Name) -> Self {
        let full = format!("{}.{name}", kind.section());
        Self { kind, bare_name: name, full }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.full
    }

    /// Parses `identity.web`, `oauth.crm`, `intercom.fin` or `bundles.fin`.
    ///
    /// # Errors
    /// Another form; the message names the valid ones.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(section, name)| {
            let kind = *ProfileKind::ALL.iter().find(|kind| kind.section() == section)?;
            Some(Self::new(kind, Name::parse(name).ok()?))
        });
        parsed.ok_or_else(|| format!("write {}", ProfileKind::forms(ProfileKind::ALL.iter().copied())))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// A key id: the `kid` of RFC 7515, section 4.1.4. Salesforce compares it byte for byte. It is also the base name
/// of the key's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// Validates a key id.
    ///
    /// # Errors
    /// Any other text; the message says which characters are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._~:@+=-".contains(&b);
        if (1..=128).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with('.') {
            Ok(Self(text.to_owned()))
        } else {
            Err("a key id is 1 to 128 letters, digits or any of `._~:@+=-`, and doesn't begin with a dot"
                .to_owned())
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A store's name for a key that signs there, with its version where the store has versions: `NAME` or `NAME:VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteKeyName {
    pub(crate) name: String,
    pub(crate) version: Option<u32>,
}

impl RemoteKeyName {
    /// Validates a name. Behind its last colon, a number is the version.
    ///
    /// # Errors
    /// Any other text; the message says which characters are allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        let is_name = |text: &str| {
            (1..=256).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with(['.', ':', '/'])
        };
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b"+-".contains(&b));
        let version = text.rsplit_once(':').filter(|(_, last)| is_number(last));
        match version.map(|(name, last)| (name, last, last.parse::<u32>())) {
            Some((name, last, Ok(version))) if is_name(name) && version > 0 && version.to_string() == last => {
                Ok(Self { name: name.to_owned(), version: Some(version) })
            }
            None if is_name(text) => Ok(Self { name: text.to_owned(), version: None }),
            _ => Err("must be a store's name for a key, for example \"crm-key:1\": 1 to 256 letters, digits or any of \
                 `._:/-`, and behind the last colon its version"
                .to_owned()),
        }
    }
}

impl fmt::Display for RemoteKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}:{version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The `iss` of an identity token: the *JSON Web Key Issuer* of the keyset in Salesforce Setup. Salesforce compares
/// it byte for byte, so it is neither trimmed nor normalized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer(String);

impl Issuer {
    /// Validates an issuer.
    ///
    /// # Errors
    /// See [`validate_text`].
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        validate_text(text, 255).map(|()| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Rejects text that can't be an identifier or an address: for example an issuer, a user name or a claim.
///
/// # Errors
/// The text is empty, longer than `longest` characters, starts or ends with white space, or contains control
/// characters.
pub(crate) fn validate_text(text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.chars().count() > longest {
        return Err(format!("must be at most {longest} characters"));
    }
    if text.trim() != text {
        return Err("begins or ends with white space; Salesforce compares it byte for byte".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

/// An algorithm that Salesforce accepts for identity tokens (RFC 7518, section 3.3). Source: Salesforce Help, "Set
/// Up Token-Based User Verification".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "RS512")]
    Rs512,
}

impl Algorithm {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs512 => "RS512",
        }
    }
}

/// A `subjectAltName` of a client certificate that identifies a caller (RFC 5280, section 4.2.1.6).
///
/// It is compared whole: no wildcards, no suffixes. The common name of the certificate is ignored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientSan {
    /// A host name in lower case; host names are case-insensitive (RFC 4343).
    Dns(String),
    /// A URI, compared byte for byte, for example `spiffe://acme/rails`.
    Uri(String),
}

impl ClientSan {
    pub(crate) fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// Parses text with `://` as a URI, any other text as a host name.
    ///
    /// # Errors
    /// A wildcard, an IP address, or an invalid name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err("must be a whole name: wildcards would let others be this caller".to_owned());
        }
        if text.contains("://") {
            let uri = text.len() <= 2048 && Url::parse(text).is_ok();
            return uri.then(|| Self::Uri(text.to_owned())).ok_or_else(|| "isn't a URI".to_owned());
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(
                "is an IP address: clients are identified by a host name or a URI in their certificate"
                    .to_owned(),
            );
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self::dns(text))
        } else {
            Err("must be a name in the client's certificate: a host name, or a URI like spiffe://acme/rails"
                .to_owned())
        }
    }
}

impl fmt::Display for ClientSan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Dns(name) | Self::Uri(name)) = self;
        f.write_str(name)
    }
}

/// A regular expression for subjects. It always matches the whole subject, with or without anchors.
#[derive(Clone, Debug)]
pub struct SubjectPattern(Regex);

impl SubjectPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The text isn't a regular expression, or isn't one when it is anchored.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Compiled alone first. Otherwise `a)|(b` would close the anchoring group.
        Regex::new(text)
            .map_err(|error| format!("isn't a regular expression: {}", last_line_of_regex_error(&error)))?;
        Regex::new(&format!(r"\A(?:{text})\z")).map(Self).map_err(|error| {
            format!(
                "is valid, but not when anchored (`^(?:…)$`): {}; simplify it",
                last_line_of_regex_error(&error)
            )
        })
    }

    pub fn matches(&self, subject: &str) -> bool {
        self.0.is_match(subject)
    }
}

fn last_line_of_regex_error(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().to_owned()
}

/// The address of an endpoint, or an audience: https, or http on loopback, without credentials and fragment. The original
/// text is kept because `aud` is compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsOrLoopbackUrl {
    written: String,
    parsed: Url,
}

impl HttpsOrLoopbackUrl {
    /// Validates an address.
    ///
    /// # Errors
    /// Another scheme, credentials or a fragment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        validate_text(text, 2048)?;
        let parsed = Url::parse(text)
            .map_err(|error| format!("isn't a URL ({error}); write it whole, `https://…`"))?;
        if parsed.scheme() != "https" && !(parsed.scheme() == "http" && is_loopback(&parsed)) {
            return Err("must begin with https:// (http:// only for loopback)".to_owned());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("must not hold a user name or password".to_owned());
        }
        if parsed.fragment().is_some() {
            return Err("must not hold a `#` fragment".to_owned());
        }
        Ok(Self { written: text.to_owned(), parsed })
    }

    pub fn as_str(&self) -> &str {
        &self.written
    }

    pub(crate) const fn url(&self) -> &Url {
        &self.parsed
    }

    /// Whether the address has no path and no query; one trailing slash is allowed.
    pub(crate) fn is_origin(&self) -> bool {
        self.parsed.path() == "/" && self.parsed.query().is_none()
    }

    /// Returns this address with `path` appended. Slashes at its end are removed first.
    ///
    /// # Errors
    /// The result is invalid, for example too long.
    pub(crate) fn with_path(&self, path: &str) -> Result<Self, String> {
        Self::parse(&format!("{}{path}", self.written.trim_end_matches('/')))
    }
}

/// Whether the host is loopback: an address, `localhost` or a name below it. For schemes unknown to the URL standard, such as
/// `redis://`, an IPv4 address arrives as a domain.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            name == "localhost"
                || name.ends_with(".localhost")
                || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The id of a Salesforce org: `00D` and 12 or 15 more letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgId(String);

impl OrgId {
    /// Validates an org id.
    ///
    /// # Errors
    /// Any other text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fits = matches!(text.len(), 15 | 18)
            && text.starts_with("00D")
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("an org id is 15 or 18 letters and digits beginning with 00D (Setup > Company Information)"
                .to_owned())
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_pattern_matches_only_the_whole_subject() {
        let pattern = SubjectPattern::parse("user-[0-9]+|admin").expect("valid");
        assert!(pattern.matches("user-1") && pattern.matches("admin"));
        // `\Ap\z`, without the group, would match both.
        assert!(!pattern.matches("user-1x") && !pattern.matches("xadmin"));
        // Not even a trailing line feed is allowed, unlike by `$` in other languages.
        assert!(!pattern.matches("admin\n"));
        assert!(SubjectPattern::parse("a)|(b").is_err());
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for taken in
            ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "https://10.0.0.1:8443"]
        {
            assert!(HttpsOrLoopbackUrl::parse(taken).is_ok(), "{taken}");
        }
        for refused in [
            "http://169.254.169.254/latest",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://[::ffff:169.254.169.254]",
            "http://[fd00::1]",
            "http://metadata.google.internal",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost@evil.example",
            "https://user:pw@acme.my.salesforce.com",
            "ftp://127.0.0.1",
            "file:///etc/passwd",
            "//127.0.0.1",
            "acme.my.salesforce.com",
        ] {
            assert!(HttpsOrLoopbackUrl::parse(refused).is_err(), "{refused}");
        }
    }
}
