//! An unverified JWT in its parts (RFC 7515, section 7.1), parsed from pasted text.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regex::Regex;
use secrecy::{ExposeSecret as _, SecretString};

use crate::json::Json;
use crate::keys::PublicNumbers;

/// A pasted token. Its content is untrusted. It is a credential: there is no `Debug`, and no message repeats it.
pub struct UnverifiedToken {
    pub(crate) about: String,
    /// Describes text around the token, for example quotes or `JWT : `.
    pub(crate) surrounding: Option<&'static str>,
    /// Describes characters that were removed from within the token.
    pub(crate) stripped: Option<&'static str>,
    pub(crate) parts: Result<JwtParts, NotAJwt>,
}

/// Why a text isn't a JWT, and how to fix it.
pub(crate) struct NotAJwt {
    pub(crate) why: String,
    pub(crate) fix: &'static str,
}

impl NotAJwt {
    fn new(why: impl Into<String>, fix: &'static str) -> Self {
        Self { why: why.into(), fix }
    }
}

const FIX_PASTE_WHOLE: &str =
    "paste the token alone and whole: three parts with two dots, as the issuer returned it";
const FIX_BASE64URL: &str = "where the token is made, write each part as base64url without padding before it is signed (RFC 7515, section \
                         2): in Node `toString('base64url')`, in Java `Base64.getUrlEncoder().withoutPadding()`, in Python \
                         `.rstrip(b'=')`";

/// Text with the shape of a JWT, signed or encrypted.
static JWT_PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[A-Za-z0-9_-]{8,}={0,2}(?:\.[A-Za-z0-9_-]+={0,2}){2,4}").expect("a pattern")
});

pub(crate) struct JwtParts {
    pub(crate) header: Json,
    pub(crate) claims: Json,
    signed: SecretString,
    signature: Vec<u8>,
}

impl UnverifiedToken {
    /// Parses the token in `text`, which may hold other text. A second, different token is an error.
    pub fn parse(about: &str, text: &str) -> Self {
        let text = text.trim_ascii();
        let (rest, surrounding) = strip_wrapping(text);
        let compact: String = rest.split_whitespace().collect();
        let is_alone = |c: char| c.is_ascii_alphanumeric() || "-_.=+/".contains(c);
        let about = about.to_owned();
        // Without white space, words before a token would become part of its header.
        let begins = match jwt_candidates(&compact).next() {
            Some(token) => compact.starts_with(token),
            None => jwt_candidates(rest).next().is_none(),
        };
        if begins && compact.chars().all(is_alone) && jwt_candidates(rest).count() < 2 {
            let stripped = (compact.len() != rest.len()).then_some("it holds white space or line breaks");
            return Self { about, surrounding, stripped, parts: JwtParts::parse(&compact) };
        }
        let found = distinct_tokens(text);
        let parts = match found.as_slice() {
            [] => Err(NotAJwt::new("it doesn't have the three parts of a JWT", FIX_PASTE_WHOLE)),
            [token] => JwtParts::parse(token),
            more => Err(NotAJwt::new(
                format!("{} JWTs were found in it", more.len()),
                "paste one token, and that alone",
            )),
        };
        Self { about, surrounding: Some("other text stands around it"), stripped: None, parts }
    }

    /// Whether `text` contains a JWT.
    pub(crate) fn occurs_in(text: &str) -> bool {
        !distinct_tokens(text).is_empty()
    }
}

/// Removes text that is often copied together with a token. Also describes what was removed last.
fn strip_wrapping(text: &str) -> (&str, Option<&'static str>) {
    let (mut rest, mut surrounding) = (text, None);
    let bare = text.trim_start_matches('\u{feff}').trim();
    if bare.len() < text.len() {
        (rest, surrounding) = (bare, Some("a byte order mark or a no-break space stands around it"));
    }
    loop {
        let unquoted = rest.trim_matches(['"', '\'']).trim();
        if unquoted.len() < rest.len() {
            (rest, surrounding) = (unquoted, Some("it stands in quotes"));
        }
        let prefixes = [
            ("JWT : ", "the words `JWT : ` of Salesforce's utility stand before it"),
            ("Bearer ", "the word `Bearer` stands before it"),
        ];
        let found = prefixes.into_iter().find_map(|(prefix, fault)| {
            let (start, behind) = rest.split_at_checked(prefix.len())?;
            start.eq_ignore_ascii_case(prefix).then_some((behind.trim(), fault))
        });
        match found {
            Some((behind, fault)) => (rest, surrounding) = (behind, Some(fault)),
            None => return (rest, surrounding),
        }
    }
}

impl JwtParts {
    fn parse(text: &str) -> Result<Self, NotAJwt> {
        let parts: Vec<&str> = text.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else {
            return Err(match parts.len() {
                5 => NotAJwt::new(
                    "it has five parts: it is encrypted (JWE); Salesforce takes signed ones",
                    "have it signed (JWS), not encrypted",
                ),
                _ => NotAJwt::new("it doesn't have the three parts of a JWT", FIX_PASTE_WHOLE),
            });
        };
        let signature = decode_part("signature", signature)?;
        let signed_len = text.rfind('.').unwrap_or_default();
        Ok(Self {
            header: decode_object("header", header)?,
            claims: decode_object("body", claims)?,
            signed: SecretString::from(text.get(..signed_len).unwrap_or_default()),
            signature,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.text(name)
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.text(name)
    }

    pub(crate) fn claim_value(&self, name: &str) -> Option<&Json> {
        self.claims.member(name)
    }

    pub(crate) fn has_claim(&self, name: &str) -> bool {
        self.claim_value(name).is_some()
    }

    /// A `NumericDate` (RFC 7519, section 2), rounded down to a second.
    pub(crate) fn numeric_date(&self, name: &str) -> Option<i64> {
        match self.claim_value(name) {
            Some(Json::Number(number)) => Some(number.floor()),
            _ => None,
        }
    }

    /// The token in compact form.
    pub(crate) fn compact(&self) -> SecretString {
        let signature = URL_SAFE_NO_PAD.encode(&self.signature);
        SecretString::from(format!("{}.{signature}", self.signed.expose_secret()))
    }

    /// The length of the signature in octets. A valid RSA signature is as long as the modulus. The signature of an unverified
    /// token can have any length.
    pub(crate) const fn signature_len(&self) -> usize {
        self.signature.len()
    }

    /// Whether the RSA key with these numbers signed the token with RS256 or RS512. Accepts keys from 1024 bits, because
    /// another check reports short keys.
    pub(crate) fn is_signed_by(&self, key: &PublicNumbers) -> bool {
        let padding = match self.header("alg") {
            Some("RS256") => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            Some("RS512") => &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
            _ => return false,
        };
        let components = PublicKeyComponents { n: &key.n, e: &key.e };
        components.verify(padding, self.signed.expose_secret().as_bytes(), &self.signature).is_ok()
    }

    /// Whether the signature is HMAC-SHA256 with `secret`.
    pub(crate) fn is_signed_with_secret(&self, secret: &SecretString) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        hmac::verify(&key, self.signed.expose_secret().as_bytes(), &self.signature).is_ok()
    }
}

/// The distinct tokens in `text`.
fn distinct_tokens(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = jwt_candidates(text).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Substrings of `text` with the shape of a JWT whose first part is a JSON object.
fn jwt_candidates(text: &str) -> impl Iterator<Item = &str> {
    let is_jwt = |candidate: &&str| {
        let header = candidate.split('.').next().unwrap_or_default().trim_end_matches('=');
        let decoded = URL_SAFE_NO_PAD.decode(header);
        decoded.is_ok_and(|bytes| matches!(Json::parse(&bytes), Ok(Json::Object(_))))
    };
    JWT_PATTERN.find_iter(text).map(|candidate| candidate.as_str()).filter(is_jwt)
}

/// Decodes one of the three parts. `what` is its name in messages.
fn decode_part(what: &str, text: &str) -> Result<Vec<u8>, NotAJwt> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| match text {
        text if text.contains('=') => NotAJwt::new(format!("its {what} has padding (`=`)"), FIX_BASE64URL),
        text if text.contains(['+', '/']) => {
            NotAJwt::new(format!("its {what} is standard base64 (`+`, `/`)"), FIX_BASE64URL)
        }
        _ => NotAJwt::new(format!("its {what} isn't base64url without padding"), FIX_PASTE_WHOLE),
    })
}

fn decode_object(what: &str, text: &str) -> Result<Json, NotAJwt> {
    match Json::parse(&decode_part(what, text)?) {
        Ok(object @ Json::Object(_)) => Ok(object),
        _ => Err(NotAJwt::new(format!("its {what} isn't a JSON object"), FIX_PASTE_WHOLE)),
    }
}
