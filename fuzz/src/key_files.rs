//! Private keys and certificates, as text, and as changes to a good key: after `edit `, each three bytes set one byte of its
//! DER.
//!
//! Holds: a key that is taken signs what its published numbers verify; a certificate that is taken is of that key; no message
//! quotes the file. Without a passphrase: an encrypted key says itself how long to work on it.

use std::sync::LazyLock;

use super::KEY;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use tokenmint::config::Algorithm;
use tokenmint::keys::{Certificate, PrivateKey};

static DER: LazyLock<Vec<u8>> = LazyLock::new(|| pem::parse(KEY.as_str()).expect("PEM").into_contents());
pub static GOOD: LazyLock<PrivateKey> = LazyLock::new(|| {
    PrivateKey::parse(&SecretString::from(KEY.as_str()), None).unwrap_or_else(|refused| panic!("{refused}"))
});

pub fn test_one_input(data: &[u8]) {
    if let Some(edits) = data.strip_prefix(b"edit ") {
        let mut der = DER.clone();
        for edit in edits.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % der.len();
            der[at] = edit[2];
        }
        key(&pem::encode(&pem::Pem::new("PRIVATE KEY", der)));
        return;
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    key(text);
    certificate(text);
}

fn key(text: &str) {
    let secret = SecretString::from(text);
    match PrivateKey::parse(&secret, None) {
        Ok(key) => check_signature(&key),
        Err(refused) => check_quotes_nothing(&refused.to_string(), text),
    }
}

fn check_signature(key: &PrivateKey) {
    const MESSAGE: &[u8] = b"header.payload";
    let mut signature = vec![0; key.signature_len()];
    key.sign(Algorithm::Rs256, MESSAGE, &mut signature).expect("a checked key signs");
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text).expect("base64url");
    let public = RsaPublicKeyComponents { n: number(&key.public.n), e: number(&key.public.e) };
    assert!(public.n[0] != 0 && public.e[0] != 0, "a leading zero (RFC 7518, section 6.3.1)");
    public.verify(&RSA_PKCS1_2048_8192_SHA256, MESSAGE, &signature).expect("its public half verifies");
}

fn certificate(text: &str) {
    match Certificate::parse(text, &GOOD.public) {
        Ok((certificate, odd)) => {
            check_quotes_nothing(&odd.unwrap_or_default(), text);
            let mut parts = certificate.der.windows(GOOD.public.der.len());
            assert!(parts.any(|part| part == GOOD.public.der), "another key's certificate");
            assert_eq!(Certificate::parse(&certificate.pem(), &GOOD.public), Ok((certificate, None)));
        }
        Err(message) => check_quotes_nothing(&message, text),
    }
}

/// Sixteen characters in a row are more than the words that both may know; a label of the PEM, and the header of one that is
/// encrypted, may be named.
fn check_quotes_nothing(message: &str, text: &str) {
    let named = |line: &&str| line.contains("-----") || "Proc-Type: 4,ENCRYPTED".contains(line);
    let lines = text.lines().map(str::trim).filter(|line| line.len() >= 16 && !named(line));
    lines.for_each(|line| assert!(!message.contains(line), "{message}"));
}
