//! Checks of private keys and certificates.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CustomExtension, KeyPair};

use crate::fake_vault::{FakeVault, SEAL_KEY, TOKEN, Trouble};

use super::{Given, certificate, certificate_of, chain, good_certificate, pem_of, token};
use crate::sandbox::{PAIRS, Pair, sign};

/// A key of any kind with its certificate, made by openssl.
pub fn openssl(kind: &str) -> Pair {
    let arguments = format!("req -x509 -newkey {kind} -nodes -keyout - -days 400 -subj /CN=acme");
    let made = Command::new("openssl").args(arguments.split(' ')).output().expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let blocks = pem::parse_many(made.stdout).expect("PEM");
    let [key, certificate] = blocks.as_slice() else { panic!("a key and a certificate") };
    Pair { pem: pem::encode(key), certificate: certificate.contents().to_vec() }
}

fn open_key() -> Given {
    let given = Given::nothing().file("Key1.key", &PAIRS[0].pem);
    fs::set_permissions(given.workspace.path("Key1.key"), Permissions::from_mode(0o644))
        .expect("a file of ours");
    given
}

/// A keyset whose store is in trouble after its key was sealed.
fn sealed_keyset(trouble: Trouble) -> Given {
    let vault = FakeVault::start();
    let store = format!(
        "directory = \"keys/identity\"\nsealed_by = \"vault\"\nseal_key = \"{SEAL_KEY}\"\n\
         [stores.vault]\nkind = \"vault\"\naddress = \"{}\"\ntoken_file = \"vault-token\"",
        vault.address
    );
    let given = Given::configured(&[("directory = \"keys/identity\"", &store)]);
    given.workspace.write_key("vault-token", TOKEN);
    given.workspace.run(&["keys", "seal", "Key1", "--keyset", "web"]).ok();
    vault.has(trouble);
    given
}

/// A keyset that signs with a store whose key is `remote`.
fn remote_keyset(remote: &str, trouble: Trouble) -> Given {
    let vault = FakeVault::start();
    vault.add_version("key", &PAIRS[1].pem);
    vault.add_version("another", &PAIRS[0].pem);
    let store = format!(
        "directory = \"keys/oauth\"\nsigned_by = \"vault\"\n\
         [stores.vault]\nkind = \"vault\"\naddress = \"{}\"\ntoken_file = \"vault-token\"",
        vault.address
    );
    let given = Given::configured(&[("directory = \"keys/oauth\"", &store)]);
    given.workspace.write_key("vault-token", TOKEN);
    fs::remove_file(given.workspace.path("keys/oauth/CrmKey1.key")).expect("a file");
    let entry =
        format!("[[key]]\nkid = \"CrmKey1\"\nsign_from = 2026-01-01T00:00:00Z\nremote = \"{remote}\"\n");
    given.workspace.write("keys/oauth/keyset.toml", &entry);
    vault.has(trouble);
    given
}

faults! {
    a_key_with_its_line_breaks_written_out: "key-form", warn, "line breaks written out",
        Given::nothing().file("Key1.key", &PAIRS[0].pem.trim().replace('\n', "\\n"));
    a_key_in_base64_once_more: "key-form", warn, "base64 around the whole text",
        Given::nothing().file("Key1.key", &STANDARD.encode(&PAIRS[0].pem));
    a_key_that_is_cut_short: "key-form", fail, "it is cut short",
        Given::nothing().file("Key1.key", PAIRS[0].pem.split("-----END").next().expect("a beginning"));
    a_public_key_instead_of_the_private_one: "key-form", fail, "it is a public key",
        Given::nothing().file("Key1.key", &KeyPair::from_pem(&PAIRS[0].pem).expect("a key").public_key_pem());
    an_encrypted_key: "key-form", fail, "it is encrypted",
        Given::nothing().file("Key1.key", &pem::encode(&pem::Pem::new("ENCRYPTED PRIVATE KEY", vec![0x30, 0])));
    a_certificate_instead_of_the_key: "configuration", fail, "it is a certificate, not a private key",
        {
            let given = Given::configured(&[]);
            given.workspace.write_key("keys/identity/Key1.key", &good_certificate());
            given
        };
    a_key_of_1024_bits: "key-strength", fail, "the key has 1024 bits",
        Given::nothing().file("Key1.key", &openssl("rsa:1024").pem);
    an_elliptic_key: "key-strength", fail, "elliptic-curve",
        Given::nothing().file("Key1.key", &KeyPair::generate().expect("a key").serialize_pem());
    a_jwk_of_1024_bits: "key-strength", fail, "1024 bits",
        Given::nothing().jwk(&openssl("rsa:1024").jwk("Key1")).refused("shorter than 2048 bits");
    a_certificate_of_1024_bits: "key-strength", fail, "1024 bits",
        Given::nothing().file("app.crt", &pem_of(&openssl("rsa:1024")));
    a_certificate_of_a_small_exponent: "key-strength", fail, "isn't 65537",
        Given::nothing().file("app.crt", &pem_of(&openssl("rsa:2048 -pkeyopt rsa_keygen_pubexp:3")));
    a_public_key_of_1024_bits: "key-strength", fail, "1024 bits",
        Given::nothing().file("app.pem", &public_key(&openssl("rsa:1024")));
    a_key_that_everybody_can_read: "key-file-mode", fail, "mode 0644",
        open_key();
    a_jwk_of_another_key: "key-pair", fail, "isn't the public half of Key1.key",
        Given::nothing().file("Key1.key", &PAIRS[0].pem).jwk(&PAIRS[1].jwk("Key1"))
            .refused("doesn't verify");
    a_certificate_of_another_key_than_the_jwk: "key-pair", fail, "is of another key than Key1.jwk",
        Given::nothing().jwk(&PAIRS[0].jwk("Key1")).file("app.crt", &pem_of(&certificate_of(&PAIRS[1], -1, 730, |_| ())));
    a_certificate_of_another_key: "key-pair", fail, "isn't the public half of Key1.key",
        Given::nothing().file("Key1.key", &PAIRS[1].pem).file("Key1.crt", &good_certificate());
    a_chain_in_the_wrong_order: "key-pair", fail, "its chain is in the wrong order",
        Given::nothing().file("Key1.key", &PAIRS[0].pem).file(
            "Key1.crt",
            &chain(&[&certificate_of(&PAIRS[1], -1, 730, |_| ()), &certificate(-1, 730, |_| ())]),
        );
    a_jwk_whose_chain_is_in_the_wrong_order: "key-pair", fail, "its chain is in the wrong order",
        Given::nothing().jwk(&with_chain(&[&PAIRS[1], &PAIRS[0]])).refused("a certificate of another key");
    a_jwk_with_the_certificate_of_another_key: "key-pair", fail, "`x5c` is of another key",
        Given::nothing().jwk(&super::jwk(|jwk| jwk["x5c"] = PAIRS[1].jwk("x")["x5c"].clone()))
            .refused("a certificate of another key");
    an_uploaded_jwk_that_is_not_the_configured_key: "key-pair", fail, "isn't the public half of that key",
        Given::configured(&[]).jwk(&PAIRS[1].jwk("Key1")).refused("doesn't verify");
    a_certificate_of_no_configured_key: "key-pair", warn, "isn't the certificate of a configured key (`CrmKey1`, `Key1`)",
        Given::configured(&[]).file("Other.crt", &certificate_pem(&OTHER, "acme"));
    a_jwk_of_no_configured_key: "key-pair", warn, "isn't the public half of a configured key (`CrmKey1`, `Key1`)",
        Given::configured(&[]).file("Other.jwk", &OTHER.jwk("Other").to_string());
    a_public_key_of_no_configured_key: "key-pair", warn, "isn't the public half of a configured key",
        Given::configured(&[]).file("Other.pem", &public_key(&OTHER));
    a_private_key_that_is_not_configured: "key-pair", warn, "isn't a configured key (`CrmKey1`, `Key1`)",
        Given::configured(&[]).file("Other.key", &OTHER.pem);
    a_pair_that_is_not_configured: "key-pair", warn, "isn't a configured key",
        Given::configured(&[])
            .file("Other.key", &OTHER.pem)
            .file("Other.crt", &certificate_pem(&OTHER, "acme"))
            .file("Other.jwk", &OTHER.jwk("Other").to_string())
            .file("Other.pem", &public_key(&OTHER));
    a_jwk_of_a_retired_key: "key-pair", warn, "has the key id `Key0`, of a key that was retired 2026-02-01",
        {
            let given = Given::configured(&[]).file("uploaded.jwk", &OTHER.jwk("Key0").to_string());
            let old = "[[key]]\nkid = \"Key0\"\nadded = 2026-01-01T00:00:00Z\nsign_from = 2026-01-03T00:00:00Z\n\
                       retired = 2026-02-01T00:00:00Z\n";
            let new = "[[key]]\nkid = \"Key1\"\nadded = 2026-01-01T00:00:00Z\nsign_from = 2026-01-04T00:00:00Z\n";
            given.workspace.write("keys/identity/keyset.toml", &format!("{old}{new}"));
            given
        };
    a_certificate_with_the_name_of_a_configured_key: "key-pair", fail,
        "has the subject `Key1`, but isn't the certificate of that key of the configuration (keysets.web)",
        Given::configured(&[]).file("uploaded.crt", &certificate_pem(&OTHER, "Key1"));
    a_certificate_in_a_file_with_the_name_of_a_configured_key: "key-pair", fail,
        "has the file name `Key1`, but isn't the certificate of that key",
        Given::configured(&[]).file("Key1.crt", &certificate_pem(&OTHER, "acme"));
    a_public_key_beside_another_private_key: "key-pair", fail, "isn't the public half of Key1.key",
        Given::nothing().file("Key1.key", &PAIRS[0].pem).file("Key1.pem", &public_key(&PAIRS[1]));
    a_public_key_beside_another_jwk: "key-pair", fail, "is of another key than Key1.jwk",
        Given::nothing().jwk(&PAIRS[0].jwk("Key1")).file("Key1.pem", &public_key(&PAIRS[1]));
    a_public_key_beside_another_certificate: "key-pair", fail, "is of another key than Key1.pem",
        Given::nothing().file("Key1.crt", &good_certificate()).file("Key1.pem", &public_key(&PAIRS[1]));
    one_key_for_identity_tokens_and_for_an_app: "separate-keys", warn, "signed by one key",
        {
            let given = Given::configured(&[]);
            given.workspace.write_key("keys/oauth/CrmKey1.key", &PAIRS[0].pem);
            given
        };
    one_keyset_for_identity_tokens_and_for_an_app: "separate-keys", warn, "signed by one key",
        Given::configured(&[("keyset = \"crm\"", "keyset = \"web\"")]);
    a_text_that_is_no_certificate: "certificate-form", fail, "holds no X.509 certificate",
        Given::nothing().file("Key1.crt", &pem::encode(&pem::Pem::new("CERTIFICATE", b"nonsense".to_vec())));
    a_certificate_of_an_elliptic_key: "certificate-form", fail, "isn't RSA",
        Given::nothing().file("Key1.crt", &pem_of(&openssl("ec -pkeyopt ec_paramgen_curve:P-256")));
    a_certificate_that_was_altered: "certificate-form", fail, "a signature that isn't its own key's",
        Given::nothing().file("Key1.crt", &pem_of(&spoilt(&certificate(-1, 730, |_| ()))));
    an_altered_certificate_whose_issuer_has_another_type_of_string: "certificate-form", fail, "a signature that isn't its own key's",
        Given::nothing().file("Key1.crt", &pem_of(&with_printable_issuer(&spoilt(&certificate(-1, 730, |_| ())))));
    a_jwk_whose_certificate_was_altered: "certificate-form", fail, "a signature that isn't its own key's",
        Given::nothing().jwk(&with_chain(&[&spoilt(&PAIRS[0])]));
    a_chain_of_strangers: "certificate-form", fail, "not certified by the one behind it",
        Given::nothing().file("Key1.crt", &chain(&[&certificate(-1, 730, |_| ()), &named("another")]));
    a_certificate_behind_another_authority_of_the_same_name: "certificate-form", fail, "isn't signed by the one behind it",
        Given::nothing().file("Key1.crt", &chain(&[&issued(&named("authority")), &authority_of(&openssl("rsa:2048"))]));
    a_certificate_that_names_another_algorithm_outside: "certificate-form", fail, "names two algorithms",
        Given::nothing().file("Key1.crt", &chain(&[&as_sha1(&issued(&named("authority"))), &named("authority")]));
    a_certificate_whose_authority_s_has_expired: "certificate-dates", fail, "certificate 2 of its chain expired",
        Given::nothing().file("Key1.crt", &chain(&[&certificate(-1, 730, |_| ()), &certificate(-400, -1, |_| ())]));
    a_certificate_that_has_expired: "certificate-dates", fail, "expired",
        Given::nothing().file("Key1.crt", &pem_of(&certificate(-400, -1, |_| ())));
    an_uploaded_certificate_with_nine_days_left: "certificate-dates", fail, "fewer than ten days",
        Given::nothing().jwk(&certificate(-1, 9, |_| ()).jwk("Key1")).refused("isn't valid for another 10 days");
    an_uploaded_certificate_of_tomorrow: "certificate-dates", fail, "isn't valid before",
        Given::nothing().jwk(&certificate(1, 400, |_| ()).jwk("Key1")).refused("isn't valid yet");
    a_certificate_with_three_weeks_left: "certificate-dates", warn, "expires",
        Given::nothing().jwk(&certificate(-1, 21, |_| ()).jwk("Key1"));
    a_configured_certificate_that_has_expired: "certificate-dates", fail, "a derived one is published in its place",
        {
            let given = Given::configured(&[]);
            given.workspace.write("keys/identity/Key1.crt", &pem_of(&certificate(-400, -1, |_| ())));
            given
        };
    a_configured_certificate_that_was_altered: "configuration", fail, "a signature that isn't its own key's",
        {
            let given = Given::configured(&[]);
            given.workspace.write("keys/identity/Key1.crt", &pem_of(&spoilt(&certificate(-1, 730, |_| ()))));
            given
        };
    a_certificate_for_a_hundred_years: "app-certificate", warn, "made for 100 years",
        Given::nothing().file("app.crt", &pem_of(&certificate(-1, 36_525, |_| ())));
    a_certificate_of_more_than_4_kb: "app-certificate", fail, "an app takes 4 KB",
        Given::nothing().file("app.crt", &pem_of(&certificate(-1, 400, |params| {
            let padding = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![4; 4_000]);
            params.custom_extensions.push(padding);
        })));
    a_store_that_is_sealed: "stores", fail, "doesn't answer: Vault is sealed", sealed_keyset(Trouble::Sealed);
    a_store_that_may_not_open_the_key: "sealed-keys", fail, "store `vault` refuses tokenmint: permission denied",
        sealed_keyset(Trouble::ForbidsDecrypt);
    a_store_that_refuses_the_login: "stores", fail, "refuses tokenmint: permission denied",
        remote_keyset("key:1", Trouble::Denied);
    a_store_that_lacks_the_key: "remote-keys", fail, "store `vault` has no key `gone`", remote_keyset("gone:1", Trouble::None);
    a_store_that_signs_with_another_key: "remote-keys", fail, "returned a signature that the public key doesn't verify",
        remote_keyset("key:1", Trouble::OtherKey);
    a_keyset_in_which_no_key_signs_yet: "signing-key", fail, "no key signs now",
        {
            let given = Given::configured(&[]);
            let schedule = "[[key]]\nkid = \"Key1\"\nsign_from = 2099-01-01T00:00:00Z\n";
            given.workspace.write("keys/identity/keyset.toml", schedule);
            given
        };
    a_token_that_another_key_signed: "token-signature", fail, "no known key signed it",
        Given::nothing()
            .jwk(&PAIRS[0].jwk("Key1"))
            .token(&sign(&PAIRS[1], jsonwebtoken::Algorithm::RS256, Some("Key1"), &super::claims()))
            .refused("doesn't verify");
    a_token_that_was_altered: "token-signature", fail, "no known key signed it",
        Given::nothing().jwk(&PAIRS[0].jwk("Key1")).token(&altered()).refused("doesn't verify");
}

/// A key that no configuration has.
static OTHER: LazyLock<Pair> = LazyLock::new(|| openssl("rsa:2048"));

fn certificate_pem(pair: &Pair, name: &str) -> String {
    pem_of(&certificate_of(pair, -1, 730, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
    }))
}

/// The first pair's key with those certificates.
fn with_chain(pairs: &[&Pair]) -> serde_json::Value {
    let entries: Vec<String> = pairs.iter().map(|pair| STANDARD.encode(&pair.certificate)).collect();
    super::jwk(|jwk| jwk["x5c"] = serde_json::json!(entries))
}

/// A certificate with a wrong signature.
fn spoilt(pair: &Pair) -> Pair {
    let mut certificate = pair.certificate.clone();
    *certificate.last_mut().expect("octets") ^= 1;
    Pair { pem: pair.pem.clone(), certificate }
}

pub fn named(name: &str) -> Pair {
    certificate_of(&PAIRS[1], -1, 730, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
    })
}

/// Another key's certificate with the same name.
fn authority_of(pair: &Pair) -> Pair {
    certificate_of(pair, -1, 730, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    })
}

/// The first key's certificate, signed by that authority.
pub fn issued(authority: &Pair) -> Pair {
    let mut name = rcgen::CertificateParams::default();
    let day = time::Duration::DAY;
    let now = time::OffsetDateTime::from_unix_timestamp(super::seconds()).expect("a date");
    (name.not_before, name.not_after) = (now - day, now + day * 730);
    let mut of_authority = rcgen::CertificateParams::default();
    of_authority.distinguished_name = rcgen::DistinguishedName::new();
    of_authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let key = KeyPair::from_pem(&authority.pem).expect("a key");
    let issuer = rcgen::Issuer::new(of_authority, key);
    let made = name.signed_by(&KeyPair::from_pem(&PAIRS[0].pem).expect("a key"), &issuer);
    Pair { pem: PAIRS[0].pem.clone(), certificate: made.expect("a certificate").der().to_vec() }
}

/// A certificate with another algorithm identifier (1.2.840.113549.1.1.5) in the part that isn't signed.
fn as_sha1(pair: &Pair) -> Pair {
    let sha256 = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    let mut certificate = pair.certificate.clone();
    let place =
        certificate.windows(sha256.len()).rposition(|octets| octets == sha256).expect("the algorithm");
    certificate[place + sha256.len() - 1] = 0x05;
    Pair { pem: pair.pem.clone(), certificate }
}

/// The same certificate with its issuer's name as a `PrintableString`.
fn with_printable_issuer(pair: &Pair) -> Pair {
    let utf8_name = [0x06, 0x03, 0x55, 0x04, 0x03, 0x0c];
    let mut certificate = pair.certificate.clone();
    let place = certificate.windows(utf8_name.len()).position(|octets| octets == utf8_name).expect("a name");
    certificate[place + utf8_name.len() - 1] = 0x13;
    Pair { pem: pair.pem.clone(), certificate }
}

pub fn public_key(pair: &Pair) -> String {
    use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(&pair.pem).expect("a key");
    key.to_public_key().to_public_key_pem(LineEnding::LF).expect("PEM")
}

/// The doctor can't verify such a signature.
#[test]
fn a_certificate_signed_with_pss_is_never_called_sound() {
    let pair = openssl("rsa:2048 -sigopt rsa_padding_mode:pss");
    for certificate in [pem_of(&pair), pem_of(&spoilt(&pair))] {
        let (code, findings) = Given::nothing().file("app.crt", &certificate).examined();
        let said = format!("{findings:#?}");
        assert!(code == 1 && said.contains("can't be checked here (RSASSA-PSS?)"), "{said}");
    }
}

/// One element of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length: Vec<u8> = content.len().to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect();
    let header = match (content.len(), length.as_slice()) {
        (0..128, octets) => vec![tag, octets.first().copied().unwrap_or_default()],
        (_, octets) => [&[tag, 0x80 | u8::try_from(octets.len()).expect("a few")][..], octets].concat(),
    };
    [header, content.to_vec()].concat()
}

/// An unsigned certificate with that value in the issuer's name and that modulus.
fn unsigned(value: &[u8], modulus: &[u8]) -> String {
    let name = |value: &[u8]| {
        let pair = [&[0x06, 0x03, 0x55, 0x04, 0x03], value].concat();
        tlv(0x30, &tlv(0x31, &tlv(0x30, &pair)))
    };
    let algorithm = |last: u8| {
        let id = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last, 0x05, 0x00];
        tlv(0x30, &id)
    };
    let number = |octets: &[u8]| tlv(0x02, &[&[0], octets].concat());
    let bits = |octets: &[u8]| tlv(0x03, &[&[0], octets].concat());
    let dates = [tlv(0x17, b"250101000000Z"), tlv(0x17, b"490101000000Z")].concat();
    let key = tlv(0x30, &[number(modulus), tlv(0x02, &[1, 0, 1])].concat());
    let inside = [
        tlv(0xa0, &tlv(0x02, &[2])),
        tlv(0x02, &[1]),
        algorithm(0x0b),
        name(value),
        tlv(0x30, &dates),
        name(&tlv(0x0c, b"acme")),
        tlv(0x30, &[algorithm(0x01), bits(&key)].concat()),
    ];
    let der = tlv(0x30, &[tlv(0x30, &inside.concat()), algorithm(0x0b), bits(&[2])].concat());
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

/// That many nested sequences.
fn nested(depth: usize) -> Vec<u8> {
    let (mut headers, mut length) = (Vec::new(), 0);
    for _ in 0..depth {
        let header = tlv(0x30, &vec![0; length])[..].to_vec();
        let header = header[..header.len() - length].to_vec();
        length += header.len();
        headers.push(header);
    }
    headers.into_iter().rev().flatten().collect()
}

/// Regression test: deeply nested names overflowed the stack, and huge numbers took an hour.
#[test]
fn a_certificate_made_to_parse_slowly_is_refused_at_once() {
    for certificate in
        [unsigned(&nested(5_000), &[0xff; 256]), unsigned(&tlv(0x0c, b"authority"), &vec![0xff; 60_000])]
    {
        let given = Given::nothing().file("app.crt", &certificate);
        let begin = std::time::Instant::now();
        let ran = given.run(&[]);
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
        assert_eq!(ran.code(), 1, "{}{}", ran.stdout, ran.stderr);
    }
}

/// A damaged copy mostly has a modulus with a small factor. Whoever reads only of that would replace a good key.
#[test]
fn a_key_of_which_two_lines_were_swapped_is_called_damaged() {
    let lines: Vec<&str> = PAIRS[0].pem.lines().collect();
    for other in 3..6 {
        let mut damaged = lines.clone();
        damaged.swap(2, other);
        let given = Given::nothing().file("Key1.key", &(damaged.join("\n") + "\n"));
        let (code, findings) = given.examined();
        assert_eq!(code, 1);
        let said = format!("{findings:#?}");
        let damaged = ["broken", "don't belong together", "damaged on its way"];
        assert!(damaged.iter().any(|words| said.contains(words)), "{said}");
    }
}

/// The configured passphrase also opens a given key file.
#[test]
fn an_encrypted_key_is_opened_by_the_passphrase_of_the_configuration() {
    let given = Given::configured(&[("[keysets.web]", "[keysets.web]\npassphrase_file = \"pass\"")]);
    given.workspace.write_key("pass", "a passphrase\n");
    let clear = given.workspace.path("keys/identity/Key1.key");
    let arguments = ["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:a passphrase", "-in"];
    let made = Command::new("openssl").args(arguments).arg(&clear).output().expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    given.workspace.write_key("keys/identity/Key1.key", &String::from_utf8(made.stdout).expect("PEM"));
    given.workspace.run(&["check"]).ok();
    let key = "keys/identity/Key1.key";
    let ran = given.workspace.run(&["doctor", key, "--json"]);
    assert_eq!(ran.code(), 0, "{}", ran.stdout);
    let token = given.workspace.run(&["mint", "identity.web", "--sub", "user-1"]).ok();
    let ran = given.workspace.run_with_input(&["verify", "--key", key], &token);
    assert_eq!(ran.code(), 0, "{}{}", ran.stdout, ran.stderr);
}

/// Another name with the signature of the first.
fn altered() -> String {
    let (mine, other) = (token(&serde_json::json!({})), token(&serde_json::json!({"sub": "user-2"})));
    let parts: Vec<&str> = mine.split('.').collect();
    let claims = other.split('.').nth(1).expect("claims");
    format!("{}.{claims}.{}", parts[0], parts[2])
}
