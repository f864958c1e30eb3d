//! The mutators: ways to change a healthy set in one place.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::random::{Random, Style, changed, rewritten, shuffled};
use crate::samples::{
    CERTIFICATES, CONFIGURATION, CONSUMER_KEY, EXPONENT_3, ISSUER, PAIRS, Pair, SECRET, SHORT, Set,
    certified, chain_of, pem_of, sign_by_secret,
};

/// One way of changing a set.
pub struct Mutator {
    pub name: &'static str,
    /// Its share of all mutations, relative to the sum of all shares.
    pub share: usize,
    pub refused: Refused,
    /// The healthy set that it changes.
    pub from: fn(&mut Random) -> Set,
    pub change: fn(&mut Set, &mut Random),
}

/// Whether a strict verifier refuses a set that was changed in that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Always,
    Sometimes,
    /// The change is harmless.
    Never,
}

use Refused::{Always, Never, Sometimes};

const fn mutator(
    name: &'static str,
    share: usize,
    refused: Refused,
    from: fn(&mut Random) -> Set,
    change: fn(&mut Set, &mut Random),
) -> Mutator {
    Mutator { name, share, refused, from, change }
}

/// An identity token and its JWK, with or without the certificate.
fn published(random: &mut Random) -> Set {
    let set = Set::identity(random.now).with_jwk();
    if random.below(2) == 0 { set.with_certificate() } else { set }
}

/// With a certificate in any case.
fn certified_too(random: &mut Random) -> Set {
    Set::identity(random.now).with_jwk().with_certificate()
}

/// An identity token and a certificate, with or without the private key.
fn uploaded(random: &mut Random) -> Set {
    let set = Set::identity(random.now).with_certificate();
    if random.below(2) == 0 { set.with_key() } else { set }
}

/// An identity token and the private key, with or without the certificate.
fn kept(random: &mut Random) -> Set {
    let set = Set::identity(random.now).with_key();
    if random.below(2) == 0 { set.with_certificate() } else { set }
}

fn configured(random: &mut Random) -> Set {
    Set::identity(random.now).configured()
}

/// An assertion and what verifies it: the configuration, or files.
fn asserted(random: &mut Random) -> Set {
    let set = Set::assertion(random.now);
    match random.below(4) {
        0 => set.with_certificate(),
        1 => set.with_key().with_certificate(),
        2 => set.with_jwk(),
        _ => set.configured(),
    }
}

fn messenger(random: &mut Random) -> Set {
    Set::intercom(random.now)
}

pub const MUTATORS: &[Mutator] = &[
    // Identity tokens, on their way.
    mutator("token: text", 1_800, Sometimes, published, change_token_text),
    mutator("token: order of parts", 150, Always, published, |set, random| {
        let order = random.pick(&[[1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 0, 2], [0, 1, 1]]);
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = order.map(|at| parts[at]).join(".");
    }),
    mutator("token: another subject under the signature", 150, Always, published, |set, random| {
        let [_, mut claims] = set.parts();
        claims["sub"] = json!(format!("user-{}", random.below(1_000) + 2));
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = [parts[0], &URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]].join(".");
    }),
    mutator("token: alg none", 100, Always, published, |set, _| {
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"Key1"}"#), parts[1]);
    }),
    // RFC 8725, section 2.1.
    mutator("token: the public key as a shared secret", 150, Always, published, |set, _| {
        let [_, claims] = set.parts();
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "Key1"});
        set.token = sign_by_secret(&header.to_string(), &claims.to_string(), &PAIRS[0].public_pem());
    }),
    // Identity tokens with mistakes of their issuer.
    mutator("token: signed by another key", 200, Always, published, sign_by_another),
    mutator("token: header member taken away", 100, Sometimes, published, |set, random| {
        set.resign(|header, _| take_away(header, random));
    }),
    mutator("token: header member renamed", 100, Sometimes, published, |set, random| {
        set.resign(|header, _| rename(header, random));
    }),
    mutator("token: header member of another value", 200, Sometimes, published, |set, random| {
        set.resign(|header, _| set_strangely(header, &["alg", "typ", "kid", "crit"], random));
    }),
    mutator("token: claim taken away", 150, Sometimes, published, take_away_claim),
    mutator("token: claim renamed", 150, Sometimes, published, rename_claim),
    mutator("token: claim of another value", 550, Sometimes, published, |set, random| {
        set.resign(|_, claims| set_strangely(claims, &["iss", "sub", "exp", "iat", "nbf", "jti"], random));
    }),
    mutator("token: claim twice", 50, Always, published, double_claim),
    // Identity tokens in other valid forms.
    mutator("token: unknown claim", 60, Never, published, unknown_claim),
    mutator("token: claim user_id", 20, Never, published, |set, _| {
        set.resign(|_, claims| claims["user_id"] = json!("42"));
    }),
    mutator("token: optional claims", 30, Never, published, |set, random| {
        let now = random.now;
        set.resign(|_, claims| {
            claims["nbf"] = json!(now - 1);
            claims["jti"] = json!(format!("{:x}", random.roll()));
        });
    }),
    mutator("token: life", 40, Never, published, |set, random| {
        let exp = random.now + 2_000 + i64::try_from(random.below(1_600)).expect("small");
        set.resign(|_, claims| claims["exp"] = json!(exp));
    }),
    mutator("token: subject", 40, Never, published, |set, random| {
        let sub = *random.pick(&["user@acme.com", "4711", "Zoë-Ünal", "用户1", "a.b_c-d"]);
        set.resign(|_, claims| claims["sub"] = json!(sub));
    }),
    mutator("token: white space in JSON", 40, Never, published, rewrite_with_space),
    mutator("token: order of members", 40, Never, published, rewrite_in_another_order),
    mutator("token: escapes in JSON", 40, Never, published, rewrite_with_escapes),
    mutator("token: white space around it", 30, Never, published, |set, random| {
        set.token =
            format!("{}{}{}", random.pick(&["", " ", "\n"]), set.token, random.pick(&["\n", "\r\n", " "]));
    }),
    // JWKs.
    mutator("JWK: text", 750, Sometimes, published, |set, random| {
        set.jwk = set.jwk.as_deref().map(|text| random.changed(text, JSON));
    }),
    mutator("JWK: member taken away", 150, Sometimes, published, |set, random| {
        set.change_jwk(|jwk| take_away(jwk, random));
    }),
    mutator("JWK: member renamed", 150, Sometimes, published, |set, random| {
        set.change_jwk(|jwk| rename(jwk, random));
    }),
    mutator("JWK: member of another value", 300, Sometimes, published, |set, random| {
        set.change_jwk(|jwk| set_strangely(jwk, &JWK_MEMBERS, random));
    }),
    // Not `e`, which is the same in both.
    mutator("JWK: another key's member", 200, Always, published, |set, random| {
        let name = *random.pick(&["n", "x5c", "x5t", "x5t#S256"]);
        let other = set.others().jwk(set.kid());
        set.change_jwk(|jwk| jwk[name] = other[name].clone());
    }),
    mutator("JWK: another key's certificate first in x5c", 50, Always, published, |set, _| {
        let [own, other] = [set.own(), set.others()].map(|pair| json!(STANDARD.encode(&pair.certificate)));
        set.change_jwk(|jwk| jwk["x5c"] = json!([other, own]));
    }),
    mutator("JWK: octets of x5c", 250, Sometimes, published, |set, random| {
        let octets = changed(&set.own().certificate, OCTETS, random);
        set.change_jwk(|jwk| jwk["x5c"] = json!([STANDARD.encode(octets)]));
    }),
    mutator("JWK: n in base64", 30, Always, published, |set, _| {
        change_number(set, "n", |octets| STANDARD_NO_PAD.encode(octets));
    }),
    mutator("JWK: n padded", 30, Always, published, |set, _| {
        change_number(set, "n", |octets| format!("{}==", URL_SAFE_NO_PAD.encode(octets)));
    }),
    mutator("JWK: n or e with a wrong padding", 30, Always, published, |set, random| {
        let name = *random.pick(&["n", "e"]);
        change_number(set, name, |octets| format!("{}=", URL_SAFE_NO_PAD.encode(octets)));
    }),
    mutator("JWK: n or e with a leading zero", 30, Always, published, |set, random| {
        let name = *random.pick(&["n", "e"]);
        change_number(set, name, |octets| URL_SAFE_NO_PAD.encode([&[0], octets].concat()));
    }),
    mutator("JWK: n or e in hexadecimal", 30, Always, published, |set, random| {
        let name = *random.pick(&["n", "e"]);
        change_number(set, name, |octets| data_encoding::HEXLOWER.encode(octets));
    }),
    mutator("JWK: e as a number", 20, Always, published, |set, _| {
        set.change_jwk(|jwk| jwk["e"] = json!(65_537));
    }),
    mutator("JWK: x5c in another form", 150, Always, published, |set, random| {
        let text = STANDARD.encode(&set.own().certificate);
        let wrapped = format!("{}\n{}", &text[..64], &text[64..]);
        let forms = [json!(text), json!([wrapped]), json!([pem_of(&set.own().certificate)])];
        set.change_jwk(|jwk| jwk["x5c"] = random.pick(&forms).clone());
    }),
    mutator("JWK: member twice", 200, Always, published, |set, random| {
        set.jwk = Some(doubled(&set.jwk_value(), random));
    }),
    mutator("JWK: text of a member", 250, Sometimes, published, |set, random| {
        let name = *random.pick(&["n", "e", "x5t", "x5t#S256", "kid"]);
        set.change_jwk(|jwk| jwk[name] = json!(random.changed(jwk[name].as_str().expect("text"), BASE64URL)));
    }),
    mutator("JWK: white space in JSON", 40, Never, published, |set, random| {
        rewrite_jwk(set, Style::Space, random);
    }),
    mutator("JWK: order of members", 40, Never, published, |set, random| {
        rewrite_jwk(set, Style::Order, random);
    }),
    mutator("JWK: escapes in JSON", 40, Never, published, |set, random| {
        rewrite_jwk(set, Style::Escapes, random);
    }),
    mutator("JWK: unknown member", 30, Never, published, |set, random| {
        let value = strange(random);
        set.change_jwk(|jwk| jwk[*random.pick(&["ext", "iat", "department", "x5u_note"])] = value);
    }),
    mutator("JWK: without what is optional", 30, Never, published, |set, random| {
        let name = *random.pick(&["use", "x5t", "x5t#S256"]);
        set.change_jwk(|jwk| _ = jwk.as_object_mut().expect("an object").remove(name));
    }),
    mutator("JWK: key_ops", 20, Never, published, |set, _| {
        set.change_jwk(|jwk| jwk["key_ops"] = json!(["verify"]));
    }),
    // Parts of a set, replaced by others that are healthy by themselves.
    mutator("swap: JWK of another key", 40, Always, published, |set, _| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
    }),
    mutator("swap: JWK and certificate of another key", 40, Always, certified_too, |set, _| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    mutator("swap: JWK and token of another key", 40, Always, certified_too, |set, random| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
        sign_by_another(set, random);
    }),
    mutator("swap: certificate of another key beside the JWK", 60, Always, certified_too, |set, _| {
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    mutator("swap: certificate of another key", 60, Always, uploaded, |set, _| {
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    mutator(
        "swap: certificate and token of another key beside the private one",
        40,
        Always,
        keyed_too,
        |set, random| {
            set.certificate = Some(pem_of(&set.others().certificate));
            sign_by_another(set, random);
        },
    ),
    mutator("swap: private key of another pair", 20, Always, kept, |set, _| {
        set.key = Some(set.others().pem.clone());
    }),
    mutator("swap: certificate of 1024 bits, with its token", 40, Always, uploaded, |set, _| {
        replace_certificate(set, &SHORT);
    }),
    mutator("swap: JWK of 1024 bits, with its token", 40, Always, published, |set, _| {
        replace_jwk(set, &SHORT);
    }),
    mutator("swap: private key of 1024 bits, with its token", 20, Always, kept, |set, _| {
        replace_key(set, &SHORT);
    }),
    mutator("swap: certificate of exponent 3, with its token", 40, Always, uploaded, |set, _| {
        replace_certificate(set, &EXPONENT_3);
    }),
    mutator("swap: JWK of exponent 3, with its token", 40, Always, published, |set, _| {
        replace_jwk(set, &EXPONENT_3);
    }),
    mutator("swap: private key of exponent 3, with its token", 20, Always, kept, |set, _| {
        replace_key(set, &EXPONENT_3);
    }),
    // Other certificates of the same key.
    mutator("certificate: by RSASSA-PSS, its last octet altered", 40, Always, uploaded, |set, random| {
        set.certificate = Some(pem_of(&with_last_octet_altered(&CERTIFICATES.pss, random)));
    }),
    mutator("certificate: by RSASSA-PSS, altered", 100, Sometimes, uploaded, |set, random| {
        set.certificate = Some(pem_of(&changed(&CERTIFICATES.pss, OCTETS, random)));
    }),
    mutator("JWK: x5c by RSASSA-PSS, its last octet altered", 40, Always, published, |set, random| {
        set_x5c(set, &[&with_last_octet_altered(&CERTIFICATES.pss, random)]);
    }),
    mutator("certificate: its last octet altered", 40, Always, uploaded, |set, random| {
        set.certificate = Some(pem_of(&with_last_octet_altered(&set.own().certificate, random)));
    }),
    mutator("certificate: chain", 20, Never, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.leaf, &CERTIFICATES.authority]));
    }),
    mutator("certificate: chain without its authority", 20, Never, uploaded, |set, _| {
        set.certificate = Some(pem_of(&CERTIFICATES.leaf));
    }),
    mutator("certificate: chain in the wrong order", 40, Always, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.authority, &CERTIFICATES.leaf]));
    }),
    mutator("certificate: chain with another authority of the same name", 40, Always, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.leaf, &CERTIFICATES.namesake]));
    }),
    mutator("certificate: chain with an altered signature", 40, Always, uploaded, |set, random| {
        let leaf = with_last_octet_altered(&CERTIFICATES.leaf, random);
        set.certificate = Some(chain_of(&[&leaf, &CERTIFICATES.authority]));
    }),
    mutator("certificate: chain with an altered certificate", 60, Sometimes, uploaded, |set, random| {
        let mut chain = [CERTIFICATES.leaf.clone(), CERTIFICATES.authority.clone()];
        let at = random.below(2);
        chain[at] = changed(&chain[at], OCTETS, random);
        set.certificate = Some(chain_of(&[&chain[0], &chain[1]]));
    }),
    mutator("JWK: x5c with a chain", 20, Never, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.leaf, &CERTIFICATES.authority]);
    }),
    mutator("JWK: x5c with a chain in the wrong order", 40, Always, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.authority, &CERTIFICATES.leaf]);
    }),
    mutator("JWK: x5c with another authority of the same name", 40, Always, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.leaf, &CERTIFICATES.namesake]);
    }),
    // Certificates.
    mutator("certificate: octets", 500, Sometimes, uploaded, |set, random| {
        let octets = changed(&set.own().certificate, OCTETS, random);
        set.certificate = Some(pem_of(&octets));
    }),
    mutator("certificate: base64", 500, Sometimes, uploaded, |set, random| {
        set.certificate = set.certificate.as_deref().map(|text| random.changed_in_columns(text));
    }),
    mutator("certificate: out of its time", 40, Always, uploaded, |set, random| {
        let (from, until) = *random.pick(&[(-400, -1), (1, 400)]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", from, until)));
    }),
    mutator("certificate: for less than ten days", 40, Always, uploaded, |set, random| {
        let until = *random.pick(&[5, 9]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", -1, until)));
    }),
    mutator("certificate: renewed", 40, Never, uploaded, |set, random| {
        let (from, until) = *random.pick(&[(-400, 30), (-1, 11), (-30, 3_000), (-1, 8_000)]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", from, until)));
    }),
    mutator("certificate: renewed, beside the JWK", 20, Never, certified_too, |set, _| {
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", -1, 800)));
    }),
    mutator("certificate: of another name", 40, Never, uploaded, |set, random| {
        let name = *random.pick(&["Zoë & Söhne", "用户", "a", "C=DE, O=\"Acme\""]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), name, -1, 700)));
    }),
    mutator("certificate: columns", 60, Never, uploaded, |set, random| {
        set.certificate = set.certificate.as_deref().map(|text| in_other_columns(text, random));
    }),
    mutator("certificate: text before it", 20, Never, uploaded, |set, _| {
        set.certificate =
            set.certificate.take().map(|pem| format!("subject=CN = acme\nissuer=CN = acme\n{pem}"));
    }),
    // Private keys.
    mutator("key: octets", 170, Sometimes, kept, |set, random| {
        let block = pem::parse(&set.own().pem).expect("PEM");
        let octets = changed(block.contents(), OCTETS, random);
        set.key = Some(pem::encode(&pem::Pem::new(block.tag(), octets)));
    }),
    mutator("key: base64", 170, Sometimes, kept, |set, random| {
        set.key = set.key.as_deref().map(|text| random.changed_in_columns(text));
    }),
    mutator("key: its public half", 10, Always, kept, |set, _| set.key = Some(set.own().public_pem())),
    mutator("key: PKCS#1", 10, Never, kept, |set, _| set.key = Some(set.own().pkcs1())),
    mutator("key: columns", 20, Never, kept, |set, random| {
        set.key = set.key.as_deref().map(|text| in_other_columns(text, random));
    }),
    // Assertions.
    mutator("assertion: text", 300, Sometimes, asserted, change_token_text),
    mutator("assertion: signed by another key", 40, Always, asserted, sign_by_another),
    mutator("assertion: alg of another value", 60, Always, asserted, |set, random| {
        set.resign(|header, _| header["alg"] = strange(random));
    }),
    mutator("assertion: crit", 20, Always, asserted, |set, _| {
        set.resign(|header, _| header["crit"] = json!(["exp"]));
    }),
    mutator("assertion: claim taken away", 60, Always, asserted, |set, random| {
        let name = *random.pick(&["iss", "sub", "aud", "exp"]);
        set.resign(|_, claims| _ = claims.as_object_mut().expect("an object").remove(name));
    }),
    mutator("assertion: claim renamed", 60, Sometimes, asserted, rename_claim),
    mutator("assertion: claim of another value", 200, Sometimes, asserted, |set, random| {
        set.resign(|_, claims| set_strangely(claims, &["iss", "sub", "aud", "exp", "iat", "nbf"], random));
    }),
    mutator("assertion: claim twice", 20, Always, asserted, double_claim),
    // Client authentication (RFC 7523, section 2.2).
    mutator("assertion: the app as its subject", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| claims["sub"] = json!(CONSUMER_KEY));
    }),
    mutator("assertion: iss and sub swapped", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| (claims["iss"], claims["sub"]) = (claims["sub"].take(), claims["iss"].take()));
    }),
    mutator("assertion: aud of the token endpoint", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| {
            claims["aud"] = json!("https://acme.my.salesforce.com/services/oauth2/token");
        });
    }),
    mutator("assertion: unknown claim", 30, Never, asserted, unknown_claim),
    mutator("assertion: without what is optional", 30, Never, asserted, |set, random| {
        take_away_optional(set, &["kid", "typ", "iat"], random);
    }),
    mutator("assertion: aud of the login host", 30, Never, asserted, |set, _| {
        set.resign(|_, claims| claims["aud"] = json!("https://login.salesforce.com"));
    }),
    mutator("assertion: white space in JSON", 20, Never, asserted, rewrite_with_space),
    mutator("assertion: order of members", 20, Never, asserted, rewrite_in_another_order),
    mutator("assertion: escapes in JSON", 20, Never, asserted, rewrite_with_escapes),
    // Intercom's.
    mutator("Intercom: text", 450, Sometimes, messenger, change_token_text),
    mutator("Intercom: secret", 80, Sometimes, messenger, |set, random| {
        let [header, claims] = set.parts();
        let secret = random.changed(SECRET, BASE64URL);
        set.token = sign_by_secret(&header.to_string(), &claims.to_string(), &secret);
    }),
    mutator("Intercom: header member of another value", 80, Sometimes, messenger, |set, random| {
        set.resign(|header, _| set_strangely(header, &["alg", "crit"], random));
    }),
    mutator("Intercom: claim taken away", 30, Sometimes, messenger, take_away_claim),
    mutator("Intercom: claim renamed", 30, Sometimes, messenger, rename_claim),
    mutator("Intercom: claim of another value", 120, Sometimes, messenger, |set, random| {
        set.resign(|_, claims| set_strangely(claims, &["user_id", "exp", "iat", "nbf"], random));
    }),
    mutator("Intercom: claim twice", 20, Always, messenger, double_claim),
    mutator("Intercom: unknown claim", 30, Never, messenger, unknown_claim),
    mutator("Intercom: without what is optional", 30, Never, messenger, |set, random| {
        take_away_optional(set, &["typ", "iat", "exp"], random);
    }),
    mutator("Intercom: white space in JSON", 20, Never, messenger, rewrite_with_space),
    mutator("Intercom: order of members", 20, Never, messenger, rewrite_in_another_order),
    mutator("Intercom: escapes in JSON", 20, Never, messenger, rewrite_with_escapes),
    // Configurations.
    mutator("configuration: text", 250, Sometimes, configured, |set, random| {
        set.configuration = Some(random.changed(CONFIGURATION, TOML));
    }),
    mutator("configuration: another identity profile", 80, Always, configured, |set, random| {
        let (from, to) = *random.pick(&[
            ("issuer = \"https://acme.example\"", "issuer = \"https://acme.example/\""),
            ("issuer = \"https://acme.example\"", "issuer = \"acme.example\""),
            ("issuer = \"https://acme.example\"", "issuer = \"https://ACME.example\""),
            ("algorithm = \"RS256\"", "algorithm = \"RS512\""),
            ("keyset = \"web\"", "keyset = \"crm\""),
            ("directory = \"keys/identity\"", "directory = \"keys/oauth\""),
        ]);
        set.configuration = Some(CONFIGURATION.replacen(from, to, 1));
    }),
    mutator("configuration: comments", 20, Never, configured, |set, random| {
        let lines = CONFIGURATION.lines().map(|line| {
            let note = *random.pick(&["", " # a note", "\n# [identity.other]", "\n", "\t"]);
            format!("{line}{note}\n")
        });
        set.configuration = Some(lines.collect());
    }),
    mutator("configuration: order of tables", 20, Never, configured, |set, random| {
        let tables: Vec<&str> = CONFIGURATION.split("\n[").filter(|table| !table.is_empty()).collect();
        let tables = shuffled(tables, random).into_iter().map(|table| format!("[{table}\n"));
        set.configuration = Some(tables.collect());
    }),
    mutator("configuration: quotes", 20, Never, configured, |set, _| {
        set.configuration = Some(CONFIGURATION.replace('"', "'"));
    }),
];

/// An identity token, its private key and the certificate.
fn keyed_too(random: &mut Random) -> Set {
    Set::identity(random.now).with_certificate().with_key()
}

const BASE64URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const JSON: &[u8] = b"{}[]\",:0123456789abcdefghijklmnopqrstuvwxyzABCDEF \\-_+/=.";
const TOML: &[u8] = b"[]\"'=.#0123456789abcdefghijklmnopqrstuvwxyzABCDEF \n\\-_";
const OCTETS: &[u8] = &{
    let (mut octets, mut at) = ([0; 256], 0);
    while at < 256 {
        octets[at] = at.to_le_bytes()[0];
        at += 1;
    }
    octets
};

const JWK_MEMBERS: [&str; 10] = ["kty", "use", "alg", "kid", "n", "e", "x5c", "x5t", "x5t#S256", "key_ops"];

/// Values of every type for any member. None occurs in a healthy set.
fn strange(random: &mut Random) -> Value {
    let now = random.now;
    random
        .pick(&[
            Value::Null,
            json!(true),
            json!(0),
            json!(-1),
            json!(1.5),
            json!(now - 3_600),
            json!(now + 7_200),
            json!((now + 3_000) * 1_000),
            json!((now + 3_000).to_string()),
            json!(""),
            json!(" "),
            json!("null"),
            json!("JOSE"),
            json!("none"),
            json!("HS256"),
            json!("RS512"),
            json!("PS256"),
            json!(format!("{ISSUER}/")),
            json!(ISSUER.to_uppercase()),
            json!("Key2"),
            json!([]),
            json!([ISSUER]),
            json!({}),
        ])
        .clone()
}

fn names(object: &Value) -> Vec<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

fn take_away(object: &mut Value, random: &mut Random) {
    let name = random.pick(&names(object)).clone();
    object.as_object_mut().expect("an object").remove(&name);
}

fn rename(object: &mut Value, random: &mut Random) {
    let name = random.pick(&names(object)).clone();
    let members = object.as_object_mut().expect("an object");
    let value = members.remove(&name).expect("there");
    // `x5t` and `X5T`, `n` and `N`, and what has no small letter.
    members.insert(
        format!("{}{}", name.to_uppercase(), if name == name.to_uppercase() { "_" } else { "" }),
        value,
    );
}

fn set_strangely(object: &mut Value, names: &[&str], random: &mut Random) {
    let name = *random.pick(names);
    object[name] = strange(random);
}

/// The text of an object in which one member stands twice, before the others or behind them.
fn doubled(object: &Value, random: &mut Random) -> String {
    let member = format!("{}:{}", json!(random.pick(&names(object))), strange(random));
    let text = object.to_string();
    let members = &text[1..text.len() - 1];
    if random.below(2) == 0 { format!("{{{member},{members}}}") } else { format!("{{{members},{member}}}") }
}

fn unknown_claim(set: &mut Set, random: &mut Random) {
    let name = *random.pick(&["department", "email", "name", "ver", "roles", "https://acme.example/plan"]);
    let value = strange(random);
    set.resign(|_, claims| claims[name] = value);
}

fn sign_by_another(set: &mut Set, _: &mut Random) {
    let [header, claims] = set.parts();
    set.token = set.others().sign(&header.to_string(), &claims.to_string());
}

fn change_token_text(set: &mut Set, random: &mut Random) {
    set.token = random.changed(&set.token, BASE64URL);
}

fn take_away_claim(set: &mut Set, random: &mut Random) {
    set.resign(|_, claims| take_away(claims, random));
}

fn rename_claim(set: &mut Set, random: &mut Random) {
    set.resign(|_, claims| rename(claims, random));
}

fn double_claim(set: &mut Set, random: &mut Random) {
    let [header, claims] = set.parts();
    let twice = doubled(&claims, random);
    set.resign_text(&header.to_string(), &twice);
}

/// Removes one of `names` from the header and the claims.
fn take_away_optional(set: &mut Set, names: &[&str], random: &mut Random) {
    let name = *random.pick(names);
    set.resign(|header, claims| {
        for part in [header, claims] {
            part.as_object_mut().expect("an object").remove(name);
        }
    });
}

/// Puts the certificate of a weak pair in place of the certificate and the key, and signs with that pair.
fn replace_certificate(set: &mut Set, weak: &Pair) {
    (set.certificate, set.key) = (Some(pem_of(&weak.certificate)), None);
    set.sign_weakly_by(weak);
}

/// Puts the JWK of a weak pair, and its certificate if there is one, in place of the set's, and signs with that pair.
fn replace_jwk(set: &mut Set, weak: &Pair) {
    set.jwk = Some(weak.jwk(set.kid()).to_string());
    set.certificate = set.certificate.take().map(|_| pem_of(&weak.certificate));
    set.sign_weakly_by(weak);
}

/// Puts the key of a weak pair, and its certificate if there is one, in place of the set's, and signs with that pair.
fn replace_key(set: &mut Set, weak: &Pair) {
    set.key = Some(weak.pem.clone());
    set.certificate = set.certificate.take().map(|_| pem_of(&weak.certificate));
    set.sign_weakly_by(weak);
}

fn rewrite_with_space(set: &mut Set, random: &mut Random) {
    rewrite_token(set, Style::Space, random);
}

fn rewrite_in_another_order(set: &mut Set, random: &mut Random) {
    rewrite_token(set, Style::Order, random);
}

fn rewrite_with_escapes(set: &mut Set, random: &mut Random) {
    rewrite_token(set, Style::Escapes, random);
}

fn rewrite_token(set: &mut Set, style: Style, random: &mut Random) {
    let [header, claims] = set.parts().map(|part| rewritten(&part, style, random));
    set.resign_text(&header, &claims);
}

fn rewrite_jwk(set: &mut Set, style: Style, random: &mut Random) {
    set.jwk = Some(rewritten(&set.jwk_value(), style, random));
}

fn change_number(set: &mut Set, name: &str, write: impl FnOnce(&[u8]) -> String) {
    set.change_jwk(|jwk| {
        let octets = URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("text")).expect("base64url");
        jwk[name] = json!(write(&octets));
    });
}

/// Publishes that chain in the JWK, which beside it is as it was.
fn set_x5c(set: &mut Set, chain: &[&[u8]]) {
    set.jwk = Some(set.own().jwk_with(set.kid(), chain).to_string());
}

fn with_last_octet_altered(der: &[u8], random: &mut Random) -> Vec<u8> {
    let mut der = der.to_vec();
    *der.last_mut().expect("octets") ^= 1 << random.below(8);
    der
}

/// PEM text with lines of another length, and with other line ends.
fn in_other_columns(text: &str, random: &mut Random) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let [begin, base64 @ .., end] = lines.as_slice() else { panic!("PEM") };
    let base64 = base64.concat();
    let width = *random.pick(&[32, 48, 60, 72, 76]);
    let columns = base64.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("ASCII"));
    let newline = *random.pick(&["\n", "\r\n"]);
    let lines: Vec<&str> = std::iter::once(*begin).chain(columns).chain([*end, ""]).collect();
    lines.join(newline)
}

#[test]
fn the_mutators_have_distinct_names() {
    let names: std::collections::BTreeSet<&str> = MUTATORS.iter().map(|mutator| mutator.name).collect();
    assert_eq!(names.len(), MUTATORS.len());
}
