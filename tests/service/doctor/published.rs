//! Checks of JWKs and JWK Sets, uploaded and served.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Given, certificate, certificate_of, jwk, pem_of, token, utility_jwk};
use crate::sandbox::{PAIRS, Pair, set_of};

fn bytes(jwk: &Value, name: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("text")).expect("base64url")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A JWK whose number has `+` or `/` in standard base64, like nearly every one.
fn standard() -> Value {
    jwk(|jwk| {
        let text = STANDARD.encode(bytes(jwk, "n"));
        assert!(text.contains(['+', '/']));
        jwk["n"] = json!(text);
    })
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

fn without(name: &str) -> Value {
    jwk(|jwk| _ = jwk.as_object_mut().expect("an object").remove(name))
}

fn with_x5c(text: &str) -> Value {
    jwk(|jwk| jwk["x5c"] = json!([text]))
}

fn der() -> Vec<u8> {
    PAIRS[0].certificate.clone()
}

/// A JWK with the real private numbers, like a library exports it.
fn private() -> Value {
    use rsa::pkcs8::DecodePrivateKey as _;
    use rsa::traits::PrivateKeyParts as _;
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(&PAIRS[0].pem).expect("a key");
    jwk(|jwk| {
        jwk["d"] = json!(URL_SAFE_NO_PAD.encode(key.d().to_bytes_be()));
        jwk["p"] = json!(URL_SAFE_NO_PAD.encode(key.primes()[0].to_bytes_be()));
    })
}

fn served(set: &Value) -> Given {
    let given = Given::nothing().with(&["--jwks", "set.json"]);
    given.workspace.write("set.json", &set.to_string());
    given
}

/// A JWK of a key that isn't configured.
fn a_third() -> Pair {
    let pair = Pair { pem: crate::support::KEYS.spare[0].clone(), certificate: Vec::new() };
    certificate_of(&pair, -1, 730, |_| ())
}

faults! {
    a_jwk_behind_the_words_of_salesforce_s_utility: "text", fail, "`JWK : `",
        Given::nothing().jwk_text(&format!("JWK : {}", PAIRS[0].jwk("Key1"))).refused("isn't JSON");
    a_private_key_behind_a_jwk: "text", fail, "a private key stands beside the JSON",
        Given::nothing().jwk_text(&format!("{}\n{}", PAIRS[0].jwk("Key1"), PAIRS[0].pem)).refused("isn't JSON");
    an_api_key_before_a_jwk: "text", fail, "other text stands around the JSON",
        Given::nothing()
            .jwk_text(&format!("X-Api-Key: tm_0123456789012345678901234567890123456789\n{}", PAIRS[0].jwk("Key1")))
            .refused("isn't JSON");
    an_exponent_in_hexadecimal: "jwk-numbers", fail, "`e` is hexadecimal",
        Given::nothing().jwk(&jwk(|jwk| jwk["e"] = json!("010001")));
    a_jwk_with_the_primes_that_are_left: "jwk-private", fail, "`oth`",
        Given::nothing().jwk(&jwk(|jwk| jwk["oth"] = json!([{"r": "AQ", "d": "AQ", "t": "AQ"}])));
    two_jwks_of_one_id: "jwk-distinct", fail, "as Key1.jwk has, which is another key",
        Given::nothing().jwk(&PAIRS[0].jwk("Key1")).file("other.jwk", &PAIRS[1].jwk("Key1").to_string());
    a_served_set_without_the_key_that_signs: "jwks-current", fail, "shows none of the keys that sign now: `Key1`",
        {
            let given = Given::configured(&[]).with(&["--jwks", "set.json"]);
            given.workspace.write("set.json", &set_of(&a_third().jwk("Other")).to_string());
            given
        };
    a_jwk_with_curly_quotes: "text", fail, "isn't JSON",
        Given::nothing().jwk_text(&PAIRS[0].jwk("Key1").to_string().replace('"', "\u{201d}")).refused("isn't JSON");
    a_set_of_keys_in_the_upload_form: "jwk-single", fail, "is a set of keys",
        Given::nothing().jwk(&set_of(&PAIRS[0].jwk("Key1"))).refused("isn't one key");
    an_array_of_keys_in_the_upload_form: "jwk-single", fail, "is an array of keys",
        Given::nothing().jwk(&json!([PAIRS[0].jwk("Key1")])).refused("isn't one key");
    a_jwk_without_a_key_id: "jwk-members", fail, "lacks `kid`",
        Given::nothing().jwk(&without("kid")).refused("lacks `kid`");
    a_jwk_without_its_algorithm: "jwk-members", fail, "lacks `alg`",
        Given::nothing().jwk(&without("alg")).refused("lacks `alg`");
    a_jwk_of_another_kind_of_key: "jwk-members", fail, "isn't RSA",
        Given::nothing().jwk(&jwk(|jwk| jwk["kty"] = json!("EC"))).refused("isn't an RSA key");
    a_jwk_for_encryption: "jwk-members", fail, "its `use` isn't sig",
        Given::nothing().jwk(&jwk(|jwk| jwk["use"] = json!("enc"))).refused("a `use` other than sig");
    a_jwk_whose_certificates_are_at_no_address: "jwk-members", fail, "its `x5u` isn't a URL",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5u"] = jwk["x5c"].clone()));
    a_jwk_for_an_algorithm_that_salesforce_doesn_t_take: "jwk-members", fail, "neither RS256 nor RS512",
        Given::nothing().jwk(&jwk(|jwk| jwk["alg"] = json!("PS256"))).refused("another `alg`");
    a_jwk_with_a_member_twice: "jwk-members", fail, "`kid` twice",
        Given::nothing().jwk_text(&PAIRS[0].jwk("Key1").to_string().replacen('{', "{\"kid\":\"Key0\",", 1));
    a_jwk_without_its_exponent: "jwk-numbers", fail, "`e` is empty",
        Given::nothing().jwk(&jwk(|jwk| jwk["e"] = json!(""))).refused("of another key");
    a_modulus_in_standard_base64: "jwk-numbers", fail, "`n` is standard base64",
        Given::nothing().jwk(&standard()).refused("isn't base64url");
    a_padded_exponent: "jwk-numbers", fail, "`e` has padding",
        Given::nothing().jwk(&jwk(|jwk| jwk["e"] = json!("AQAB===="))).refused("isn't base64url");
    a_modulus_in_hexadecimal_digits: "jwk-numbers", fail, "`n` is hexadecimal",
        Given::nothing().jwk(&jwk(|jwk| jwk["n"] = json!(hex(&bytes(jwk, "n"))))).refused("of another key");
    a_modulus_with_a_leading_zero: "jwk-numbers", fail, "`n` begins with a zero octet",
        Given::nothing()
            .jwk(&jwk(|jwk| jwk["n"] = json!(URL_SAFE_NO_PAD.encode([vec![0], bytes(jwk, "n")].concat()))))
            .refused("of another key");
    a_jwk_without_its_certificate: "jwk-x5c", fail, "has no `x5c`",
        Given::nothing().jwk(&without("x5c")).refused("has no `x5c`, and was uploaded");
    an_empty_list_of_certificates: "jwk-x5c", fail, "has no `x5c`",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5c"] = json!([])));
    a_served_key_without_its_certificate: "jwk-x5c", warn, "reported to work",
        served(&set_of(&without("x5c")));
    a_certificate_in_base64url: "jwk-x5c-form", fail, "is base64url",
        Given::nothing().jwk(&with_x5c(&url_safe())).refused("isn't plain base64");
    a_certificate_as_pem_text: "jwk-x5c-form", fail, "holds PEM text",
        Given::nothing().jwk(&with_x5c(&pem_of(&PAIRS[0]))).refused("isn't plain base64");
    a_certificate_with_line_breaks: "jwk-x5c-form", fail, "holds line breaks",
        Given::nothing().jwk(&with_x5c(&STANDARD.encode(der()).replacen('M', "M\n", 1))).refused("isn't plain base64");
    a_certificate_as_text_and_not_in_a_list: "jwk-x5c-form", fail, "not an array",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5c"] = json!(STANDARD.encode(der())))).refused("no array of text");
    a_public_key_in_place_of_the_certificate: "jwk-x5c-form", fail, "a public key",
        Given::nothing()
            .jwk(&with_x5c(&STANDARD.encode(
                rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::from_pem(&PAIRS[0].pem).expect("a key")),
            )))
            .refused("holds no certificate");
    a_number_with_several_faults: "jwk-numbers", fail,
        "`n` is standard base64 and has padding (`=`) and holds white space; `e` has padding",
        Given::nothing().jwk(&jwk(|jwk| {
            jwk["n"] = json!(format!("{}\n", STANDARD.encode(bytes(jwk, "n"))));
            jwk["e"] = json!("AQAB====");
        }));
    a_jwk_with_several_faults: "jwk-members", fail, "lacks `kid`; its `alg` is a number, not text; its `use` isn't sig",
        Given::nothing().jwk(&jwk(|jwk| {
            jwk.as_object_mut().expect("an object").remove("kid");
            jwk["alg"] = json!(256);
            jwk["use"] = json!("enc");
        })).refused("lacks `kid`");
    a_thumbprint_of_another_certificate: "jwk-thumbprint", fail, "`x5t#S256` is another certificate's",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5t#S256"] = json!(URL_SAFE_NO_PAD.encode([7; 32]))));
    a_short_thumbprint_of_another_certificate: "jwk-thumbprint", fail, "`x5t` is another certificate's",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5t"] = json!(URL_SAFE_NO_PAD.encode([7; 20]))));
    a_thumbprint_in_the_wrong_place: "jwk-thumbprint", fail, "belongs in the other",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5t"] = json!(URL_SAFE_NO_PAD.encode(sha256(&der())))));
    a_thumbprint_in_hexadecimal: "jwk-thumbprint", fail, "is hexadecimal",
        Given::nothing().jwk(&jwk(|jwk| jwk["x5t#S256"] = json!(hex(&sha256(&der())))));
    a_served_set_without_any_key: "text", fail, "or an empty one", served(&json!({"keys": []}));
    a_served_set_with_salesforce_s_placeholders: "jwk-placeholders", warn, "nothing has leaked",
        served(&set_of(&utility_jwk()));
    a_jwk_with_the_private_key_in_it: "jwk-private", fail, "private members of the key: `d`, `p`",
        Given::nothing().jwk(&private());
    a_jwk_with_the_private_key_in_place_of_its_certificate: "jwk-private", fail, "`x5c` holds the private key",
        Given::nothing()
            .jwk(&with_x5c(&STANDARD.encode(pem::parse(&PAIRS[0].pem).expect("PEM").contents())))
            .refused("holds no certificate");
    two_keys_of_one_name: "jwk-distinct", fail, "two keys with the id `Key1`",
        served(&json!({"keys": [PAIRS[0].jwk("Key1"), PAIRS[1].jwk("Key1")]}));
}

/// A certificate whose base64 has characters that differ in base64url. One of a few certificates has them.
fn url_safe() -> String {
    let mut days = 400..500;
    let mut made = std::iter::from_fn(|| days.next().map(|until| certificate(-1, until, |_| ())));
    let text = made
        .find_map(|pair| Some(URL_SAFE.encode(&pair.certificate)).filter(|text| text.contains(['-', '_'])));
    text.expect("nearly every one has them")
}

/// Runs the doctor before an upload in Setup.
#[test]
fn the_sandbox_s_setup_says_why_a_key_fails_to_upload() {
    let given = Given::configured(&[]).jwk(&set_of(&PAIRS[0].jwk("Key1")));
    let ran = given.workspace.run(&["sandbox", "--listen", "127.0.0.1:0", "--upload", "Key1.jwk"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("Key1.jwk fails to upload: it isn't one key"), "{}", ran.stderr);
}

/// The placeholder `d` of Salesforce's utility is explained, and not reported as a leaked key.
#[test]
fn the_placeholders_of_salesforce_s_utility_are_explained_and_no_leak() {
    let given = Given::nothing().jwk(&utility_jwk()).token(&token(&json!({})));
    given.is_well();
    let text = given.run(&["-v"]).ok();
    let line = text.lines().find(|line| line.contains("jwk-placeholders")).expect("it is mentioned");
    assert!(line.contains(r#""y":"y", "crv":"crv", "d":"d", "k":"k""#), "{line}");
    assert!(text.contains("holds no private member"), "{text}");
}

/// The report names the missing input.
#[test]
fn the_missing_members_of_a_jwk_are_named_where_nothing_was_checked() {
    let broken = || Given::nothing().jwk_text("{\"kty\": broken");
    for (given, check, reason) in [
        (broken(), "jwk-members", "what was given as a JWK isn't JSON, or holds no JWK"),
        (broken(), "jwk-x5c-form", "what was given as a JWK isn't JSON, or holds no JWK"),
        (broken(), "jwk-single", "what was given as a JWK isn't JSON, or holds no JWK"),
        (Given::nothing().jwk(&without("x5c")), "jwk-x5c-form", "the JWK has no certificate (`x5c`)"),
        (
            Given::nothing().jwk(&without("x5c")),
            "jwk-thumbprint",
            "the JWK has no thumbprint (`x5t`, `x5t#S256`)",
        ),
        (Given::nothing().jwk(&private()), "jwk-placeholders", "the JWK holds the private key"),
        (served(&set_of(&PAIRS[0].jwk("Key1"))), "jwk-single", "each JWK was given as one of a served set"),
        (served(&set_of(&PAIRS[0].jwk("Key1"))), "token-claims", "no token was given"),
        (Given::nothing().token(&token(&json!({"exp": null}))), "token-expiry", "the token has no `exp`"),
    ] {
        let skipped = given.not_looked_at();
        let found = skipped.iter().find(|skipped| skipped["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check}: {skipped:?}"));
        assert_eq!(found["reason"], reason, "{check}");
    }
}
