//! A JWK or JWK Set that somebody has, uploaded, or serves (RFC 7517), with the mistakes that strict parsers
//! refuse and that Salesforce's own tool makes.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use base64::{alphabet, engine::DecodePaddingMode};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::certificate::Certificate;
use super::wording::printable;
use crate::json::Json;
use crate::keys::Numbers;

/// A file or an answer with one JWK or a set of them.
pub struct JwkDocument {
    pub about: String,
    pub shape: Shape,
    /// What stands around the JSON. Never its words: they may be a secret.
    pub around: Option<&'static str>,
    /// Whether it is what an endpoint serves; else it goes through an upload form.
    pub served: bool,
    pub keys: Vec<Jwk>,
    /// Entries that are no object, and so no JWK.
    pub others: usize,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Shape {
    Single,
    /// `{"keys": […]}`
    Set,
    /// `[…]`
    Array,
    /// With what the parser says.
    NotJson(String),
}

pub struct Jwk {
    pub about: String,
    json: Json,
    pub n: Number,
    pub e: Number,
    pub x5c: X5c,
}

/// `n` or `e`.
pub struct Number {
    /// As far as it can be made out.
    pub value: Option<Vec<u8>>,
    /// All that is wrong with how it is written.
    pub faults: Vec<&'static str>,
}

/// What `x5c` holds.
pub enum X5c {
    Missing,
    /// The certificates that can be made out, in their order, and all that is wrong with how they are written.
    Chain {
        certificates: Vec<Certificate>,
        faults: Vec<String>,
    },
    /// The private key itself.
    PrivateKey,
}

/// A member that holds a certificate's digest, and how it compares.
pub enum Thumbprint {
    Missing,
    Right,
    Wrong(&'static str),
}

/// Members that hold a private or symmetric key (RFC 7518, sections 6.3.2 and 6.4.1).
const PRIVATE: &[&str] = &["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Members whose value in Salesforce's sample, and in the output of its utility, is their own name.
const PLACEHOLDERS: &[&str] = &["y", "crv", "d", "k"];

impl JwkDocument {
    pub fn read(about: &str, text: &str) -> Self {
        let (text, marked) = text.strip_prefix('\u{feff}').map_or((text, false), |text| (text, true));
        let start = text.find(['{', '[']).unwrap_or(0);
        let end = text.rfind(['}', ']']).map_or(text.len(), |end| end + 1);
        let (before, json, after) = match (text.get(..start), text.get(start..end), text.get(end..)) {
            (Some(before), Some(json), Some(after)) => (before.trim(), json, after.trim()),
            _ => ("", text, ""),
        };
        let around = match (before, after) {
            ("", "") if marked => {
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
            Err(error) => (Shape::NotJson(error), Vec::new()),
            Ok(Json::Array(items)) => (Shape::Array, items),
            Ok(object @ Json::Object(_)) => match object.member("keys") {
                Some(Json::Array(items)) => (Shape::Set, items.clone()),
                _ => (Shape::Single, vec![object]),
            },
            Ok(_) => (Shape::NotJson("it is no JSON object".to_owned()), Vec::new()),
        };
        let count = items.len();
        let keys: Vec<Jwk> = items
            .into_iter()
            .filter(|item| matches!(item, Json::Object(_)))
            .map(|item| Jwk::read(about, shape != Shape::Single, item))
            .collect();
        let others = count - keys.len();
        Self { about: about.to_owned(), shape, around, served: false, keys, others }
    }

    /// Whether it is what an endpoint has to show: a set of keys and nothing else (RFC 7517, section 5).
    pub fn is_a_set(&self) -> bool {
        self.shape == Shape::Set && self.around.is_none() && self.others == 0 && !self.keys.is_empty()
    }
}

impl Jwk {
    fn read(document: &str, one_of_several: bool, json: Json) -> Self {
        let about = match json.text("kid").filter(|_| one_of_several) {
            Some(kid) => format!("{document}, `{}`", printable(kid)),
            None => document.to_owned(),
        };
        let number = |name: &str| number(json.member(name));
        let (n, e, x5c) = (number("n"), number("e"), x5c(json.member("x5c")));
        Self { about, json, n, e, x5c }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.json.text(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.json.member(name).is_some()
    }

    /// Why the member of that name, if there is one, is no text.
    pub fn no_text(&self, name: &str) -> Option<String> {
        match self.json.member(name)? {
            Json::String(text) if text.is_empty() => Some("is empty".to_owned()),
            Json::String(_) => None,
            other => Some(format!("is {}, not text", other.type_name())),
        }
    }

    /// Whether the member of that name is an array with that text in it.
    pub fn lists(&self, name: &str, item: &str) -> bool {
        let items = match self.json.member(name) {
            Some(Json::Array(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().any(|listed| matches!(listed, Json::String(text) if text == item))
    }

    pub fn kid(&self) -> Option<&str> {
        self.text("kid")
    }

    pub fn doubled(&self) -> Option<String> {
        self.json.doubled()
    }

    /// From `n` and `e`, or from the certificate where there are none.
    pub fn numbers(&self) -> Option<Numbers> {
        match (&self.n.value, &self.e.value) {
            (Some(n), Some(e)) => Some(Numbers::new(n, e)),
            _ if self.has("n") || self.has("e") => None,
            _ => self.certified().cloned(),
        }
    }

    /// The key that its certificate is for.
    pub fn certified(&self) -> Option<&Numbers> {
        self.certificate().and_then(|certificate| certificate.key.as_ref())
    }

    /// The certificate of its key: the first (RFC 7517, section 4.7).
    pub fn certificate(&self) -> Option<&Certificate> {
        self.chain().first()
    }

    pub fn chain(&self) -> &[Certificate] {
        match &self.x5c {
            X5c::Chain { certificates, .. } => certificates,
            X5c::Missing | X5c::PrivateKey => &[],
        }
    }

    /// Compares `x5t` with the SHA-1 of its certificate, and `x5t#S256` with its SHA-256; `None` where there is no
    /// certificate to compare with.
    pub fn thumbprints(&self) -> Option<[(&'static str, Thumbprint); 2]> {
        let certificate = self.certificate()?;
        let (sha1, sha256) = (&certificate.sha1[..], &certificate.sha256[..]);
        let of = |name, right: &[u8], other: &[u8]| match self.json.member(name) {
            None => Thumbprint::Missing,
            Some(Json::String(text)) => thumbprint(text, right, other),
            Some(_) => Thumbprint::Wrong("isn't text"),
        };
        Some([("x5t", of("x5t", sha1, sha256)), ("x5t#S256", of("x5t#S256", sha256, sha1))])
    }

    /// Members with a private number in them. The placeholders of Salesforce's sample are none.
    pub fn private_members(&self) -> Vec<&'static str> {
        let is_null = |name: &str| matches!(self.json.member(name), Some(Json::Null));
        let secret = |name: &&str| self.has(name) && !is_null(name) && self.text(name) != Some(*name);
        PRIVATE.iter().copied().filter(secret).collect()
    }

    /// The literal `"d":"d"` and its like.
    pub fn placeholders(&self) -> Vec<&'static str> {
        PLACEHOLDERS.iter().copied().filter(|name| self.text(name) == Some(*name)).collect()
    }
}

/// Standard alphabet or the one for URLs, padded or not.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

fn lenient(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    let engine = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    engine.decode(text.replace('+', "-").replace('/', "_")).ok()
}

fn thumbprint(text: &str, right: &[u8], other: &[u8]) -> Thumbprint {
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
        () if lenient(text).is_some_and(|bytes| bytes == right) => {
            Thumbprint::Wrong("isn't base64url without padding")
        }
        () => Thumbprint::Wrong("is another certificate's"),
    }
}

fn number(value: Option<&Json>) -> Number {
    let text = match value {
        None => return Number { value: None, faults: Vec::new() },
        Some(Json::String(text)) => text,
        Some(_) => return Number { value: None, faults: vec!["isn't text"] },
    };
    // Hexadecimal digits are base64url too, of another number. The short one is 65537, the usual exponent.
    if text == "010001" || text.len() >= 256 && text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Number {
            value: HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            faults: vec!["is hexadecimal"],
        };
    }
    let value = lenient(text).filter(|value| !value.is_empty());
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
    Number { value, faults }
}

fn x5c(value: Option<&Json>) -> X5c {
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
        let (read, written) = entry_of_x5c(text);
        let place = if at == 0 { String::new() } else { format!("in its entry {} ", at + 1) };
        let seen = match read {
            Entry::PrivateKey => return X5c::PrivateKey,
            Entry::Certificate(certificate) => {
                certificates.push(*certificate);
                None
            }
            Entry::Other(what) => what,
        };
        faults.extend(written.into_iter().chain(seen).map(|fault| format!("{place}{fault}")));
    }
    X5c::Chain { certificates, faults }
}

enum Entry {
    Certificate(Box<Certificate>),
    PrivateKey,
    /// Says what it is, where how it is written doesn't say it.
    Other(Option<&'static str>),
}

/// One entry of `x5c`, and what is wrong with how it is written.
fn entry_of_x5c(text: &str) -> (Entry, Vec<&'static str>) {
    if text.contains("PRIVATE KEY-----") {
        return (Entry::PrivateKey, Vec::new());
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
    let Some(der) = lenient(&body) else { return (Entry::Other(None), faults) };
    let read = match Certificate::read(&der) {
        Ok(certificate) => Entry::Certificate(Box::new(certificate)),
        Err(_) if is_private(&der) => Entry::PrivateKey,
        Err(_) if is_public(&der) => Entry::Other(Some("holds a public key, not its certificate")),
        Err(_) => Entry::Other(faults.is_empty().then_some("holds no certificate")),
    };
    (read, faults)
}

fn is_private(der: &[u8]) -> bool {
    rsa::pkcs8::PrivateKeyInfo::try_from(der).is_ok()
        || <rsa::pkcs1::RsaPrivateKey<'_> as rsa::pkcs8::der::Decode>::from_der(der).is_ok()
}

fn is_public(der: &[u8]) -> bool {
    rsa::pkcs8::SubjectPublicKeyInfoRef::try_from(der).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_write_a_number_wrong_is_named_and_still_read() {
        let read = |text: &str| number(Some(&Json::String(text.to_owned())));
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
    fn salesforce_s_placeholders_are_not_taken_for_secrets() {
        let read = |json: &str| JwkDocument::read("a file", json).keys.remove(0);
        let sample = read(r#"{"kid":"1","y":"y","crv":"crv","d":"d","k":"k"}"#);
        assert!(sample.private_members().is_empty());
        assert_eq!(sample.placeholders(), ["y", "crv", "d", "k"]);
        // As serializers write what isn't there.
        assert!(read(r#"{"kid":"1","d":null,"p":null}"#).private_members().is_empty());
        assert_eq!(read(r#"{"d":"AAAA","p":"BBBB","oth":[{}]}"#).private_members(), ["d", "p", "oth"]);
    }
}
