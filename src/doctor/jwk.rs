//! A JWK or JWK Set that somebody has, uploaded, or serves (RFC 7517), with the mistakes that strict parsers
//! refuse and that Salesforce's own tool makes.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use base64::{alphabet, engine::DecodePaddingMode};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::certificate::Certificate;
use super::material::Numbers;
use crate::json::Json;

/// A file or an answer with one JWK or a set of them.
pub struct JwkDocument {
    pub about: String,
    pub shape: Shape,
    /// What stands around the JSON, as `JWK : ` from Salesforce's command line utility.
    pub around: Option<String>,
    /// Whether it is what an endpoint serves; else it goes through an upload form.
    pub served: bool,
    pub keys: Vec<Jwk>,
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
    /// What is wrong with how it is written.
    pub fault: Option<&'static str>,
}

/// The first certificate of `x5c`.
pub enum X5c {
    Missing,
    /// A certificate, and what is wrong with how it is written.
    Certificate(Box<Certificate>, Option<&'static str>),
    /// Something else.
    Other(&'static str),
    /// The private key itself.
    PrivateKey,
}

/// Members that hold a private or symmetric key (RFC 7518, sections 6.3.2 and 6.4.1).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];
/// Members whose value in Salesforce's sample, and in the output of its utility, is their own name.
const PLACEHOLDERS: [&str; 4] = ["y", "crv", "d", "k"];

impl JwkDocument {
    pub fn read(about: &str, text: &str) -> Self {
        let start = text.find(['{', '[']).unwrap_or(0);
        let end = text.rfind(['}', ']']).map_or(text.len(), |end| end + 1);
        let (before, json, after) = match (text.get(..start), text.get(start..end), text.get(end..)) {
            (Some(before), Some(json), Some(after)) => (before.trim(), json, after.trim()),
            _ => ("", text, ""),
        };
        let around = format!("{before}{after}");
        let around = Some(around).filter(|around| !around.is_empty());
        let (shape, items) = match Json::parse(json.as_bytes()) {
            Err(error) => (Shape::NotJson(error), Vec::new()),
            Ok(Json::Array(items)) => (Shape::Array, items),
            Ok(object @ Json::Object(_)) => match object.member("keys") {
                Some(Json::Array(items)) => (Shape::Set, items.clone()),
                _ => (Shape::Single, vec![object]),
            },
            Ok(_) => (Shape::NotJson("it is no JSON object".to_owned()), Vec::new()),
        };
        let keys = items
            .into_iter()
            .filter(|item| matches!(item, Json::Object(_)))
            .map(|item| Jwk::read(about, shape != Shape::Single, item))
            .collect();
        Self { about: about.to_owned(), shape, around, served: false, keys }
    }

    /// Whether it is what an endpoint has to show: a set of keys and nothing else (RFC 7517, section 5).
    pub fn is_a_set(&self) -> bool {
        self.shape == Shape::Set && self.around.is_none() && !self.keys.is_empty()
    }
}

impl Jwk {
    fn read(document: &str, one_of_several: bool, json: Json) -> Self {
        let about = match json.text("kid").filter(|_| one_of_several) {
            Some(kid) => format!("{document}, `{}`", super::printable(kid)),
            None => document.to_owned(),
        };
        let number = |name: &str| number(json.member(name));
        let (n, e, x5c) = (number("n"), number("e"), x5c(json.member("x5c")));
        Self { about, json, n, e, x5c }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.json.text(name)
    }

    /// What a member is that isn't text, as `a number`.
    pub fn other_type(&self, name: &str) -> Option<&'static str> {
        self.json.member(name).filter(|value| !matches!(value, Json::String(_))).map(Json::type_name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.json.member(name).is_some()
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
            _ => self.certified().cloned(),
        }
    }

    /// The key that its certificate is for.
    pub fn certified(&self) -> Option<&Numbers> {
        self.certificate().and_then(|certificate| certificate.key.as_ref())
    }

    pub fn certificate(&self) -> Option<&Certificate> {
        match &self.x5c {
            X5c::Certificate(certificate, _) => Some(certificate),
            _ => None,
        }
    }

    /// Members with a private number in them. The placeholders of Salesforce's sample are none.
    pub fn private_members(&self) -> Vec<&'static str> {
        let secret = |name: &&str| self.has(name) && self.text(name) != Some(*name);
        PRIVATE.into_iter().filter(secret).collect()
    }

    /// The literal `"d":"d"` and its like.
    pub fn placeholders(&self) -> Vec<&'static str> {
        PLACEHOLDERS.into_iter().filter(|name| self.text(name) == Some(*name)).collect()
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

fn number(value: Option<&Json>) -> Number {
    let text = match value {
        None => return Number { value: None, fault: None },
        Some(Json::String(text)) => text,
        Some(_) => return Number { value: None, fault: Some("isn't text") },
    };
    // Hexadecimal digits are base64url too, of another number.
    if text.len() >= 256 && text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Number {
            value: HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            fault: Some("is hexadecimal"),
        };
    }
    let fault = match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) if bytes.first() == Some(&0) => Some("begins with a zero octet"),
        Ok(bytes) if bytes.is_empty() => Some("is empty"),
        Ok(_) => None,
        Err(_) if text.contains(['+', '/']) => Some("is standard base64"),
        Err(_) if text.contains('=') => Some("has padding (`=`)"),
        Err(_) if text.contains(char::is_whitespace) => Some("holds white space"),
        Err(_) => Some("isn't base64url"),
    };
    Number { value: lenient(text).filter(|value| !value.is_empty()), fault }
}

fn x5c(value: Option<&Json>) -> X5c {
    let (text, mut fault) = match value {
        None => return X5c::Missing,
        Some(Json::Array(items)) => match items.first() {
            None => return X5c::Missing,
            Some(Json::String(text)) => (text, None),
            Some(_) => return X5c::Other("is no array of text"),
        },
        Some(Json::String(text)) => (text, Some("is text, not an array of text")),
        Some(_) => return X5c::Other("is no array of text"),
    };
    if text.contains("PRIVATE KEY-----") {
        return X5c::PrivateKey;
    }
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let written_out = text.replace("\\n", "\n");
    let body = if text.contains("\\n") {
        written_out.lines().filter(|line| !line.starts_with("-----")).collect()
    } else {
        body
    };
    if STANDARD.decode(text).is_err() {
        fault = Some(match text {
            text if text.contains("-----BEGIN") => {
                "holds PEM text; the lines with -----BEGIN and -----END go"
            }
            text if text.contains(char::is_whitespace) || text.contains("\\n") => "holds line breaks",
            text if text.contains(['-', '_']) => "is base64url; of all members this one is plain base64",
            _ => "isn't base64",
        });
    }
    let Some(der) = lenient(&body) else { return X5c::Other(fault.unwrap_or("isn't base64")) };
    match Certificate::read(&der) {
        Ok(certificate) => X5c::Certificate(Box::new(certificate), fault),
        Err(_) if is_private(&der) => X5c::PrivateKey,
        Err(_) if is_public(&der) => X5c::Other("holds a public key, not its certificate"),
        Err(_) => X5c::Other(fault.unwrap_or("holds no certificate")),
    }
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
            ("-__-", None),
            ("+//+", Some("is standard base64")),
            ("APv__g", Some("begins with a zero octet")),
            ("-__-\n", Some("holds white space")),
            ("AQ==", Some("has padding (`=`)")),
            ("é", Some("isn't base64url")),
        ] {
            assert_eq!(read(text).fault, fault, "{text}");
        }
        assert_eq!(read("+//+").value, Some(bytes));
        let hex = "c0".repeat(256);
        assert_eq!(read(&hex).value, Some(vec![0xc0; 256]));
        assert!(read(&hex).fault.is_some());
    }

    #[test]
    fn salesforce_s_placeholders_are_not_taken_for_secrets() {
        let read = |json: &str| JwkDocument::read("a file", json).keys.remove(0);
        let sample = read(r#"{"kid":"1","y":"y","crv":"crv","d":"d","k":"k"}"#);
        assert!(sample.private_members().is_empty());
        assert_eq!(sample.placeholders(), ["y", "crv", "d", "k"]);
        assert_eq!(read(r#"{"d":"AAAA","p":"BBBB"}"#).private_members(), ["d", "p"]);
    }
}
