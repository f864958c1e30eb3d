//! A tolerant parser of JWKs and JWK Sets (RFC 7517). It records the mistakes that strict parsers reject, for example
//! those in the output of Salesforce's own tool.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use base64::{alphabet, engine::DecodePaddingMode};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::certificate::CertificateInfo;
use super::formatting::escape_and_truncate;
use crate::json::Json;
use crate::keys::PublicNumbers;

/// A file or a response with one JWK or several.
pub struct JwkDocument {
    pub about: String,
    pub shape: JwkShape,
    /// Describes text before or after the JSON. Never quotes it, because it may be a secret.
    pub surrounding: Option<&'static str>,
    /// Whether an endpoint serves the document. Otherwise it is meant for an upload form.
    pub served: bool,
    pub keys: Vec<ParsedJwk>,
    /// The number of entries that aren't JSON objects.
    pub non_objects: usize,
}

#[derive(Clone, PartialEq, Eq)]
pub enum JwkShape {
    Single,
    /// `{"keys": […]}`
    Set,
    /// `[…]`
    Array,
    /// Holds the error of the parser.
    NotJson(String),
}

pub struct ParsedJwk {
    pub(crate) about: String,
    json: Json,
    pub(crate) n: JwkInteger,
    pub(crate) e: JwkInteger,
    pub(crate) x5c: X5c,
}

/// The member `n` or `e`.
pub(crate) struct JwkInteger {
    /// `None` if it is missing or can't be decoded.
    pub(crate) value: Option<Vec<u8>>,
    /// Faults of its encoding. Without any, the member is valid base64url or missing.
    pub(crate) faults: Vec<&'static str>,
}

/// The member `x5c`.
pub(crate) enum X5c {
    /// Missing or empty.
    Missing,
    /// The certificates that can be parsed, in order, and every fault of the member and its entries.
    Chain { certificates: Vec<CertificateInfo>, faults: Vec<String> },
    /// An entry is a private key.
    PrivateKey,
}

/// The result of comparing `x5t` or `x5t#S256` with the certificate.
pub(crate) enum Thumbprint {
    Missing,
    Right,
    Wrong(&'static str),
}

/// Members of a private or symmetric key (RFC 7518, sections 6.3.2 and 6.4.1).
const PRIVATE_MEMBERS: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Members whose value is their own name in Salesforce's sample and in the output of its utility.
const PLACEHOLDER_MEMBERS: &[&str] = &["y", "crv", "d", "k"];

impl JwkDocument {
    pub fn parse(about: &str, text: &str) -> Self {
        let (text, has_bom) = text.strip_prefix('\u{feff}').map_or((text, false), |text| (text, true));
        let start = text.find(['{', '[']).unwrap_or(0);
        let end = text.rfind(['}', ']']).map_or(text.len(), |end| end + 1);
        let (before, json, after) = match (text.get(..start), text.get(start..end), text.get(end..)) {
            (Some(before), Some(json), Some(after)) => (before.trim(), json, after.trim()),
            _ => ("", text, ""),
        };
        let surrounding = match (before, after) {
            ("", "") if has_bom => {
                Some("a byte order mark (BOM) stands before the JSON: save the file without it")
            }
            ("", "") => None,
            _ if [before, after].iter().any(|text| text.contains("PRIVATE KEY-----")) => {
                Some("a private key stands beside the JSON: give the files one by one")
            }
            ("JWK :", "") => Some("the words `JWK : ` of Salesforce's utility stand before the JSON"),
            _ => Some("other text stands around the JSON"),
        };
        let (shape, items) = match Json::parse(json.as_bytes()) {
            Err(error) => (JwkShape::NotJson(error), Vec::new()),
            Ok(Json::Array(items)) => (JwkShape::Array, items),
            Ok(object @ Json::Object(_)) => match object.member("keys") {
                Some(Json::Array(items)) => (JwkShape::Set, items.clone()),
                _ => (JwkShape::Single, vec![object]),
            },
            Ok(_) => (JwkShape::NotJson("it is no JSON object".to_owned()), Vec::new()),
        };
        let count = items.len();
        let keys: Vec<ParsedJwk> = items
            .into_iter()
            .filter(|item| matches!(item, Json::Object(_)))
            .map(|item| ParsedJwk::parse(about, shape != JwkShape::Single, item))
            .collect();
        let non_objects = count - keys.len();
        Self { about: about.to_owned(), shape, surrounding, served: false, keys, non_objects }
    }

    /// Whether the document is a JWK Set (RFC 7517, section 5) with at least one key, no other entries, and no text around it.
    pub fn is_jwk_set(&self) -> bool {
        self.shape == JwkShape::Set
            && self.surrounding.is_none()
            && self.non_objects == 0
            && !self.keys.is_empty()
    }
}

impl ParsedJwk {
    fn parse(document: &str, one_of_several: bool, json: Json) -> Self {
        let about = match json.text("kid").filter(|_| one_of_several) {
            Some(kid) => format!("{document}, `{}`", escape_and_truncate(kid)),
            None => document.to_owned(),
        };
        let number = |name: &str| parse_integer(json.member(name));
        let (n, e, x5c) = (number("n"), number("e"), parse_x5c(json.member("x5c")));
        Self { about, json, n, e, x5c }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.json.text(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.json.member(name).is_some()
    }

    /// Why the member `name` isn't a non-empty string. `None` if it is one, or is missing.
    pub(crate) fn not_text_reason(&self, name: &str) -> Option<String> {
        match self.json.member(name)? {
            Json::String(text) if text.is_empty() => Some("is empty".to_owned()),
            Json::String(_) => None,
            other => Some(format!("is {}, not text", other.type_name())),
        }
    }

    /// Whether the member `name` is an array that contains the string `item`.
    pub(crate) fn array_contains(&self, name: &str, item: &str) -> bool {
        let items = match self.json.member(name) {
            Some(Json::Array(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().any(|listed| matches!(listed, Json::String(text) if text == item))
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.text("kid")
    }

    pub(crate) fn duplicate_key(&self) -> Option<String> {
        self.json.duplicate_key()
    }

    /// The public key from `n` and `e`, or from the certificate if both are missing.
    pub(crate) fn numbers(&self) -> Option<PublicNumbers> {
        match (&self.n.value, &self.e.value) {
            (Some(n), Some(e)) => Some(PublicNumbers::new(n, e)),
            _ if self.has("n") || self.has("e") => None,
            _ => self.certificate_key().cloned(),
        }
    }

    /// The public key in its certificate.
    pub(crate) fn certificate_key(&self) -> Option<&PublicNumbers> {
        self.certificate().and_then(|certificate| certificate.key.as_ref())
    }

    /// The certificate of its key: the first of `x5c` (RFC 7517, section 4.7).
    pub(crate) fn certificate(&self) -> Option<&CertificateInfo> {
        self.chain().first()
    }

    pub(crate) fn chain(&self) -> &[CertificateInfo] {
        match &self.x5c {
            X5c::Chain { certificates, .. } => certificates,
            X5c::Missing | X5c::PrivateKey => &[],
        }
    }

    /// Compares `x5t` with the SHA-1 of the certificate, and `x5t#S256` with its SHA-256. `None` without a certificate.
    pub(crate) fn thumbprints(&self) -> Option<[(&'static str, Thumbprint); 2]> {
        let certificate = self.certificate()?;
        let (sha1, sha256) = (&certificate.sha1[..], &certificate.sha256[..]);
        let of = |name, right: &[u8], other: &[u8]| match self.json.member(name) {
            None => Thumbprint::Missing,
            Some(Json::String(text)) => check_thumbprint(text, right, other),
            Some(_) => Thumbprint::Wrong("isn't text"),
        };
        Some([("x5t", of("x5t", sha1, sha256)), ("x5t#S256", of("x5t#S256", sha256, sha1))])
    }

    /// Members with private values. The placeholders of Salesforce's sample, and `null`, don't count.
    pub(crate) fn private_members(&self) -> Vec<&'static str> {
        let is_null = |name: &str| matches!(self.json.member(name), Some(Json::Null));
        let secret = |name: &&str| self.has(name) && !is_null(name) && self.text(name) != Some(*name);
        PRIVATE_MEMBERS.iter().copied().filter(secret).collect()
    }

    /// Members whose value is a placeholder, for example `"d":"d"`.
    pub(crate) fn placeholders(&self) -> Vec<&'static str> {
        PLACEHOLDER_MEMBERS.iter().copied().filter(|name| self.text(name) == Some(*name)).collect()
    }
}

/// Base64 with or without padding. [`decode_lenient`] also accepts both alphabets and white space.
const LENIENT_BASE64: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

fn decode_lenient(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    let engine = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT_BASE64);
    engine.decode(text.replace('+', "-").replace('/', "_")).ok()
}

fn check_thumbprint(text: &str, right: &[u8], other: &[u8]) -> Thumbprint {
    let is = |digest: &[u8]| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes == digest);
    let hexadecimal: String = text.chars().filter(|c| *c != ':').collect();
    let in_hexadecimal =
        |digest: &[u8]| HEXLOWER_PERMISSIVE.decode(hexadecimal.as_bytes()).is_ok_and(|bytes| bytes == digest);
    match () {
        () if is(right) => Thumbprint::Right,
        () if is(other) => {
            Thumbprint::Wrong("is the digest that belongs in the other of `x5t` and `x5t#S256`")
        }
        () if in_hexadecimal(right) => Thumbprint::Wrong("is hexadecimal, not base64url"),
        () if decode_lenient(text).is_some_and(|bytes| bytes == right) => {
            Thumbprint::Wrong("isn't base64url without padding")
        }
        () => Thumbprint::Wrong("is another certificate's"),
    }
}

fn parse_integer(value: Option<&Json>) -> JwkInteger {
    let text = match value {
        None => return JwkInteger { value: None, faults: Vec::new() },
        Some(Json::String(text)) => text,
        Some(_) => return JwkInteger { value: None, faults: vec!["isn't text"] },
    };
    // Hexadecimal digits also decode as base64url, to another number. `010001` is 65537, the usual exponent.
    if text == "010001" || text.len() >= 256 && text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return JwkInteger {
            value: HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            faults: vec!["is hexadecimal"],
        };
    }
    let value = decode_lenient(text).filter(|value| !value.is_empty());
    let mut faults = Vec::new();
    if text.contains(['+', '/']) {
        faults.push("is standard base64");
    }
    if text.contains('=') {
        faults.push("has padding (`=`)");
    }
    if text.contains(char::is_whitespace) {
        faults.push("holds white space");
    }
    match &value {
        _ if text.is_empty() => faults.push("is empty"),
        Some(value) if value.first() == Some(&0) => faults.push("begins with a zero octet"),
        _ => {}
    }
    if faults.is_empty() && URL_SAFE_NO_PAD.decode(text).is_err() {
        faults.push("isn't base64url");
    }
    JwkInteger { value, faults }
}

fn parse_x5c(value: Option<&Json>) -> X5c {
    const NO_TEXT: &str = "is no array of text";
    let mut faults = Vec::new();
    let entries: &[Json] = match value {
        None => return X5c::Missing,
        Some(Json::Array(items)) if items.is_empty() => return X5c::Missing,
        Some(Json::Array(items)) => items,
        Some(text @ Json::String(_)) => {
            faults.push("is text, not an array of text".to_owned());
            std::slice::from_ref(text)
        }
        Some(_) => return X5c::Chain { certificates: Vec::new(), faults: vec![NO_TEXT.to_owned()] },
    };
    let mut certificates = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let Json::String(text) = entry else {
            faults.push(NO_TEXT.to_owned());
            continue;
        };
        let (read, written) = parse_x5c_entry(text);
        let place = if at == 0 { String::new() } else { format!("in its entry {} ", at + 1) };
        let seen = match read {
            X5cEntry::PrivateKey => return X5c::PrivateKey,
            X5cEntry::Certificate(certificate) => {
                certificates.push(*certificate);
                None
            }
            X5cEntry::Other(what) => what,
        };
        faults.extend(written.into_iter().chain(seen).map(|fault| format!("{place}{fault}")));
    }
    X5c::Chain { certificates, faults }
}

enum X5cEntry {
    Certificate(Box<CertificateInfo>),
    PrivateKey,
    /// Says what the entry is, unless its encoding faults say it already.
    Other(Option<&'static str>),
}

/// Parses one entry of `x5c`. Also returns the faults of its encoding.
fn parse_x5c_entry(text: &str) -> (X5cEntry, Vec<&'static str>) {
    if text.contains("PRIVATE KEY-----") {
        return (X5cEntry::PrivateKey, Vec::new());
    }
    let written_out = text.replace("\\n", "\n");
    let body: String = written_out.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut faults = Vec::new();
    if STANDARD.decode(text).is_err() {
        let is_pem = text.contains("-----BEGIN");
        if is_pem {
            faults.push("holds PEM text; the lines with -----BEGIN and -----END go");
        } else if text.contains(char::is_whitespace) || text.contains("\\n") {
            faults.push("holds line breaks");
        }
        if !is_pem && body.contains(['-', '_']) {
            faults.push("is base64url; of all members this one is plain base64");
        }
        if faults.is_empty() {
            faults.push("isn't base64");
        }
    }
    let Some(der) = decode_lenient(&body) else { return (X5cEntry::Other(None), faults) };
    let read = match CertificateInfo::parse(&der) {
        Ok(certificate) => X5cEntry::Certificate(Box::new(certificate)),
        Err(_) if is_private_key_der(&der) => X5cEntry::PrivateKey,
        Err(_) if is_public_key_der(&der) => X5cEntry::Other(Some("holds a public key, not its certificate")),
        Err(_) => X5cEntry::Other(faults.is_empty().then_some("holds no certificate")),
    };
    (read, faults)
}

fn is_private_key_der(der: &[u8]) -> bool {
    rsa::pkcs8::PrivateKeyInfo::try_from(der).is_ok()
        || <rsa::pkcs1::RsaPrivateKey<'_> as rsa::pkcs8::der::Decode>::from_der(der).is_ok()
}

fn is_public_key_der(der: &[u8]) -> bool {
    rsa::pkcs8::SubjectPublicKeyInfoRef::try_from(der).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_fault_of_a_number_is_named_and_the_number_is_read() {
        let read = |text: &str| parse_integer(Some(&Json::String(text.to_owned())));
        let bytes = vec![0xfb, 0xff, 0xfe];
        for (text, fault) in [
            ("-__-", &[][..]),
            ("+//+", &["is standard base64"]),
            ("APv__g", &["begins with a zero octet"]),
            ("-__-\n", &["holds white space"]),
            ("AQ==", &["has padding (`=`)"]),
            ("é", &["isn't base64url"]),
            ("", &["is empty"]),
            (
                "AP//\n/g==",
                &["is standard base64", "has padding (`=`)", "holds white space", "begins with a zero octet"],
            ),
        ] {
            assert_eq!(read(text).faults, fault, "{text}");
        }
        assert_eq!(read("+//+").value, Some(bytes));
        let hex = "c0".repeat(256);
        assert_eq!(read(&hex).value, Some(vec![0xc0; 256]));
        assert_eq!(read(&hex).faults, ["is hexadecimal"]);
    }

    #[test]
    fn placeholders_of_salesforce_are_not_private_members() {
        let read = |json: &str| JwkDocument::parse("a file", json).keys.remove(0);
        let sample = read(r#"{"kid":"1","y":"y","crv":"crv","d":"d","k":"k"}"#);
        assert!(sample.private_members().is_empty());
        assert_eq!(sample.placeholders(), ["y", "crv", "d", "k"]);
        // Some serializers write `null` for a missing member.
        assert!(read(r#"{"kid":"1","d":null,"p":null}"#).private_members().is_empty());
        assert_eq!(read(r#"{"d":"AAAA","p":"BBBB","oth":[{}]}"#).private_members(), ["d", "p", "oth"]);
    }
}
