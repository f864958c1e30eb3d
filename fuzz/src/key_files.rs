//! Fuzzes private keys and certificates as text, and changes to a valid key: after `edit `, each three bytes set one byte of its
//! DER.
//!
//! Invariants:
//! - The published numbers of an accepted key verify its signatures.
//! - An accepted certificate is of that key.
//! - No message quotes the file.
//!
//! No passphrase is used, because the file of an encrypted key chooses the number of iterations.

use std::sync::LazyLock;

use super::KEY;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use tokenmint::config::Algorithm;
use tokenmint::keys::{KeyCertificate, PrivateKey};

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
    match KeyCertificate::parse(text, &GOOD.public) {
        Ok((certificate, odd)) => {
            check_quotes_nothing(&odd.unwrap_or_default(), text);
            let mut parts = certificate.der.windows(GOOD.public.der.len());
            assert!(parts.any(|part| part == GOOD.public.der), "another key's certificate");
            assert_eq!(KeyCertificate::parse(&certificate.pem(), &GOOD.public), Ok((certificate, None)));
        }
        Err(message) => check_quotes_nothing(&message, text),
    }
}

/// Checks that `message` contains no line of `text` with 16 characters or more. PEM labels and the header of an encrypted PEM are
/// allowed.
fn check_quotes_nothing(message: &str, text: &str) {
    let named = |line: &&str| line.contains("-----") || "Proc-Type: 4,ENCRYPTED".contains(line);
    let lines = text.lines().map(str::trim).filter(|line| line.len() >= 16 && !named(line));
    lines.for_each(|line| assert!(!message.contains(line), "{message}"));
}
