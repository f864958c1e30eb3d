//! The ways of changing a healthy set in one place.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::dice::{Dice, Style, changed, rewritten, shuffled};
use crate::stock::{
    CERTIFICATES, CONFIGURATION, CONSUMER_KEY, EXPONENT_3, ISSUER, PAIRS, SECRET, SHORT, Set, certified,
    chain_of, pem_of, sign_by_secret,
};

/// One way of changing a set.
pub struct Arm {
    pub name: &'static str,
    /// How many of all mutations are made this way, as a part of the sum of all shares.
    pub share: usize,
    pub refused: Refused,
    /// The healthy set that it changes.
    pub from: fn(&mut Dice) -> Set,
    pub change: fn(&mut Set, &mut Dice),
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

const fn arm(
    name: &'static str,
    share: usize,
    refused: Refused,
    from: fn(&mut Dice) -> Set,
    change: fn(&mut Set, &mut Dice),
) -> Arm {
    Arm { name, share, refused, from, change }
}

/// An identity token and its JWK, with or without the certificate.
fn published(dice: &mut Dice) -> Set {
    let set = Set::identity(dice.now).with_jwk();
    if dice.below(2) == 0 { set.with_certificate() } else { set }
}

/// With a certificate in any case.
fn certified_too(dice: &mut Dice) -> Set {
    Set::identity(dice.now).with_jwk().with_certificate()
}

/// An identity token and a certificate, with or without the private key.
fn uploaded(dice: &mut Dice) -> Set {
    let set = Set::identity(dice.now).with_certificate();
    if dice.below(2) == 0 { set.with_key() } else { set }
}

/// An identity token and the private key, with or without the certificate.
fn kept(dice: &mut Dice) -> Set {
    let set = Set::identity(dice.now).with_key();
    if dice.below(2) == 0 { set.with_certificate() } else { set }
}

fn configured(dice: &mut Dice) -> Set {
    Set::identity(dice.now).configured()
}

/// An assertion and what verifies it: the configuration, or files.
fn asserted(dice: &mut Dice) -> Set {
    let set = Set::assertion(dice.now);
    match dice.below(4) {
        0 => set.with_certificate(),
        1 => set.with_key().with_certificate(),
        2 => set.with_jwk(),
        _ => set.configured(),
    }
}

fn messenger(dice: &mut Dice) -> Set {
    Set::intercom(dice.now)
}

pub const ARMS: &[Arm] = &[
    // Identity tokens, on their way.
    arm("token: text", 1_800, Sometimes, published, |set, dice| {
        set.token = dice.changed(&set.token, BASE64URL);
    }),
    arm("token: order of parts", 150, Always, published, |set, dice| {
        let order = dice.pick(&[[1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 0, 2], [0, 1, 1]]);
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = order.map(|at| parts[at]).join(".");
    }),
    arm("token: another subject under the signature", 150, Always, published, |set, dice| {
        let [_, mut claims] = set.parts();
        claims["sub"] = json!(format!("user-{}", dice.below(1_000) + 2));
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = [parts[0], &URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]].join(".");
    }),
    arm("token: alg none", 100, Always, published, |set, _| {
        let parts: Vec<&str> = set.token.split('.').collect();
        set.token = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"Key1"}"#), parts[1]);
    }),
    // RFC 8725, section 2.1.
    arm("token: the public key as a shared secret", 150, Always, published, |set, _| {
        let [_, claims] = set.parts();
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "Key1"});
        set.token = sign_by_secret(&header.to_string(), &claims.to_string(), &PAIRS[0].public_pem());
    }),
    // Identity tokens, as their maker makes them wrong.
    arm("token: signed by another key", 200, Always, published, sign_by_another),
    arm("token: header member taken away", 100, Sometimes, published, |set, dice| {
        set.resign(|header, _| take_away(header, dice));
    }),
    arm("token: header member renamed", 100, Sometimes, published, |set, dice| {
        set.resign(|header, _| rename(header, dice));
    }),
    arm("token: header member of another value", 200, Sometimes, published, |set, dice| {
        set.resign(|header, _| set_strangely(header, &["alg", "typ", "kid", "crit"], dice));
    }),
    arm("token: claim taken away", 150, Sometimes, published, |set, dice| {
        set.resign(|_, claims| take_away(claims, dice));
    }),
    arm("token: claim renamed", 150, Sometimes, published, |set, dice| {
        set.resign(|_, claims| rename(claims, dice));
    }),
    arm("token: claim of another value", 550, Sometimes, published, |set, dice| {
        set.resign(|_, claims| set_strangely(claims, &["iss", "sub", "exp", "iat", "nbf", "jti"], dice));
    }),
    arm("token: claim twice", 50, Always, published, |set, dice| {
        let [header, claims] = set.parts();
        let twice = doubled(&claims, dice);
        set.resign_text(&header.to_string(), &twice);
    }),
    // Identity tokens, made in another way that is as good.
    arm("token: unknown claim", 60, Never, published, unknown_claim),
    arm("token: claim user_id", 20, Never, published, |set, _| {
        set.resign(|_, claims| claims["user_id"] = json!("42"));
    }),
    arm("token: optional claims", 30, Never, published, |set, dice| {
        let now = dice.now;
        set.resign(|_, claims| {
            claims["nbf"] = json!(now - 1);
            claims["jti"] = json!(format!("{:x}", dice.roll()));
        });
    }),
    arm("token: life", 40, Never, published, |set, dice| {
        let exp = dice.now + 2_000 + i64::try_from(dice.below(1_600)).expect("small");
        set.resign(|_, claims| claims["exp"] = json!(exp));
    }),
    arm("token: subject", 40, Never, published, |set, dice| {
        let sub = *dice.pick(&["user@acme.com", "4711", "Zoë-Ünal", "用户1", "a.b_c-d"]);
        set.resign(|_, claims| claims["sub"] = json!(sub));
    }),
    arm("token: white space in JSON", 40, Never, published, |set, dice| {
        rewrite_token(set, Style::Space, dice);
    }),
    arm("token: order of members", 40, Never, published, |set, dice| rewrite_token(set, Style::Order, dice)),
    arm("token: escapes in JSON", 40, Never, published, |set, dice| rewrite_token(set, Style::Escapes, dice)),
    arm("token: white space around it", 30, Never, published, |set, dice| {
        set.token =
            format!("{}{}{}", dice.pick(&["", " ", "\n"]), set.token, dice.pick(&["\n", "\r\n", " "]));
    }),
    // JWKs.
    arm("JWK: text", 750, Sometimes, published, |set, dice| {
        set.jwk = set.jwk.as_deref().map(|text| dice.changed(text, JSON));
    }),
    arm("JWK: member taken away", 150, Sometimes, published, |set, dice| {
        set.change_jwk(|jwk| take_away(jwk, dice));
    }),
    arm("JWK: member renamed", 150, Sometimes, published, |set, dice| {
        set.change_jwk(|jwk| rename(jwk, dice));
    }),
    arm("JWK: member of another value", 300, Sometimes, published, |set, dice| {
        set.change_jwk(|jwk| set_strangely(jwk, &JWK_MEMBERS, dice));
    }),
    // Not `e`, which is the same in both.
    arm("JWK: another key's member", 200, Always, published, |set, dice| {
        let name = *dice.pick(&["n", "x5c", "x5t", "x5t#S256"]);
        let other = set.others().jwk(set.kid());
        set.change_jwk(|jwk| jwk[name] = other[name].clone());
    }),
    arm("JWK: another key's certificate first in x5c", 50, Always, published, |set, _| {
        let [own, other] = [set.own(), set.others()].map(|pair| json!(STANDARD.encode(&pair.certificate)));
        set.change_jwk(|jwk| jwk["x5c"] = json!([other, own]));
    }),
    arm("JWK: octets of x5c", 250, Sometimes, published, |set, dice| {
        let octets = changed(&set.own().certificate, OCTETS, dice);
        set.change_jwk(|jwk| jwk["x5c"] = json!([STANDARD.encode(octets)]));
    }),
    arm("JWK: n in base64", 30, Always, published, |set, _| {
        change_number(set, "n", |octets| STANDARD_NO_PAD.encode(octets));
    }),
    arm("JWK: n padded", 30, Always, published, |set, _| {
        change_number(set, "n", |octets| format!("{}==", URL_SAFE_NO_PAD.encode(octets)));
    }),
    arm("JWK: n or e with a wrong padding", 30, Always, published, |set, dice| {
        let name = *dice.pick(&["n", "e"]);
        change_number(set, name, |octets| format!("{}=", URL_SAFE_NO_PAD.encode(octets)));
    }),
    arm("JWK: n or e with a leading zero", 30, Always, published, |set, dice| {
        let name = *dice.pick(&["n", "e"]);
        change_number(set, name, |octets| URL_SAFE_NO_PAD.encode([&[0], octets].concat()));
    }),
    arm("JWK: n or e in hexadecimal", 30, Always, published, |set, dice| {
        let name = *dice.pick(&["n", "e"]);
        change_number(set, name, |octets| data_encoding::HEXLOWER.encode(octets));
    }),
    arm("JWK: e as a number", 20, Always, published, |set, _| set.change_jwk(|jwk| jwk["e"] = json!(65_537))),
    arm("JWK: x5c in another form", 150, Always, published, |set, dice| {
        let text = STANDARD.encode(&set.own().certificate);
        let wrapped = format!("{}\n{}", &text[..64], &text[64..]);
        let forms = [json!(text), json!([wrapped]), json!([pem_of(&set.own().certificate)])];
        set.change_jwk(|jwk| jwk["x5c"] = dice.pick(&forms).clone());
    }),
    arm("JWK: member twice", 200, Always, published, |set, dice| {
        set.jwk = Some(doubled(&set.jwk_value(), dice));
    }),
    arm("JWK: text of a member", 250, Sometimes, published, |set, dice| {
        let name = *dice.pick(&["n", "e", "x5t", "x5t#S256", "kid"]);
        set.change_jwk(|jwk| jwk[name] = json!(dice.changed(jwk[name].as_str().expect("text"), BASE64URL)));
    }),
    arm("JWK: white space in JSON", 40, Never, published, |set, dice| rewrite_jwk(set, Style::Space, dice)),
    arm("JWK: order of members", 40, Never, published, |set, dice| rewrite_jwk(set, Style::Order, dice)),
    arm("JWK: escapes in JSON", 40, Never, published, |set, dice| rewrite_jwk(set, Style::Escapes, dice)),
    arm("JWK: unknown member", 30, Never, published, |set, dice| {
        let value = strange(dice);
        set.change_jwk(|jwk| jwk[*dice.pick(&["ext", "iat", "department", "x5u_note"])] = value);
    }),
    arm("JWK: without what is optional", 30, Never, published, |set, dice| {
        let name = *dice.pick(&["use", "x5t", "x5t#S256"]);
        set.change_jwk(|jwk| _ = jwk.as_object_mut().expect("an object").remove(name));
    }),
    arm("JWK: key_ops", 20, Never, published, |set, _| {
        set.change_jwk(|jwk| jwk["key_ops"] = json!(["verify"]));
    }),
    // Whole things of a set, swapped for others that are healthy by themselves.
    arm("swap: JWK of another key", 40, Always, published, |set, _| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
    }),
    arm("swap: JWK and certificate of another key", 40, Always, certified_too, |set, _| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    arm("swap: JWK and token of another key", 40, Always, certified_too, |set, dice| {
        set.jwk = Some(set.others().jwk(set.kid()).to_string());
        sign_by_another(set, dice);
    }),
    arm("swap: certificate of another key beside the JWK", 60, Always, certified_too, |set, _| {
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    arm("swap: certificate of another key", 60, Always, uploaded, |set, _| {
        set.certificate = Some(pem_of(&set.others().certificate));
    }),
    arm(
        "swap: certificate and token of another key beside the private one",
        40,
        Always,
        keyed_too,
        |set, dice| {
            set.certificate = Some(pem_of(&set.others().certificate));
            sign_by_another(set, dice);
        },
    ),
    arm("swap: private key of another pair", 20, Always, kept, |set, _| {
        set.key = Some(set.others().pem.clone());
    }),
    arm("swap: certificate of 1024 bits, with its token", 40, Always, uploaded, |set, _| {
        (set.certificate, set.key) = (Some(pem_of(&SHORT.certificate)), None);
        set.sign_weakly_by(&SHORT);
    }),
    arm("swap: JWK of 1024 bits, with its token", 40, Always, published, |set, _| {
        set.jwk = Some(SHORT.jwk(set.kid()).to_string());
        set.certificate = set.certificate.take().map(|_| pem_of(&SHORT.certificate));
        set.sign_weakly_by(&SHORT);
    }),
    arm("swap: private key of 1024 bits, with its token", 20, Always, kept, |set, _| {
        set.key = Some(SHORT.pem.clone());
        set.certificate = set.certificate.take().map(|_| pem_of(&SHORT.certificate));
        set.sign_weakly_by(&SHORT);
    }),
    arm("swap: certificate of exponent 3, with its token", 40, Always, uploaded, |set, _| {
        (set.certificate, set.key) = (Some(pem_of(&EXPONENT_3.certificate)), None);
        set.sign_weakly_by(&EXPONENT_3);
    }),
    arm("swap: JWK of exponent 3, with its token", 40, Always, published, |set, _| {
        set.jwk = Some(EXPONENT_3.jwk(set.kid()).to_string());
        set.certificate = set.certificate.take().map(|_| pem_of(&EXPONENT_3.certificate));
        set.sign_weakly_by(&EXPONENT_3);
    }),
    arm("swap: private key of exponent 3, with its token", 20, Always, kept, |set, _| {
        set.key = Some(EXPONENT_3.pem.clone());
        set.certificate = set.certificate.take().map(|_| pem_of(&EXPONENT_3.certificate));
        set.sign_weakly_by(&EXPONENT_3);
    }),
    // Other certificates of the same key.
    arm("certificate: by RSASSA-PSS, its last octet altered", 40, Always, uploaded, |set, dice| {
        set.certificate = Some(pem_of(&with_last_octet_altered(&CERTIFICATES.pss, dice)));
    }),
    arm("certificate: by RSASSA-PSS, altered", 100, Sometimes, uploaded, |set, dice| {
        set.certificate = Some(pem_of(&changed(&CERTIFICATES.pss, OCTETS, dice)));
    }),
    arm("JWK: x5c by RSASSA-PSS, its last octet altered", 40, Always, published, |set, dice| {
        set_x5c(set, &[&with_last_octet_altered(&CERTIFICATES.pss, dice)]);
    }),
    arm("certificate: its last octet altered", 40, Always, uploaded, |set, dice| {
        set.certificate = Some(pem_of(&with_last_octet_altered(&set.own().certificate, dice)));
    }),
    arm("certificate: chain", 20, Never, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.leaf, &CERTIFICATES.authority]));
    }),
    arm("certificate: chain without its authority", 20, Never, uploaded, |set, _| {
        set.certificate = Some(pem_of(&CERTIFICATES.leaf));
    }),
    arm("certificate: chain in the wrong order", 40, Always, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.authority, &CERTIFICATES.leaf]));
    }),
    arm("certificate: chain with another authority of the same name", 40, Always, uploaded, |set, _| {
        set.certificate = Some(chain_of(&[&CERTIFICATES.leaf, &CERTIFICATES.namesake]));
    }),
    arm("certificate: chain with an altered signature", 40, Always, uploaded, |set, dice| {
        let leaf = with_last_octet_altered(&CERTIFICATES.leaf, dice);
        set.certificate = Some(chain_of(&[&leaf, &CERTIFICATES.authority]));
    }),
    arm("certificate: chain with an altered certificate", 60, Sometimes, uploaded, |set, dice| {
        let mut chain = [CERTIFICATES.leaf.clone(), CERTIFICATES.authority.clone()];
        let at = dice.below(2);
        chain[at] = changed(&chain[at], OCTETS, dice);
        set.certificate = Some(chain_of(&[&chain[0], &chain[1]]));
    }),
    arm("JWK: x5c with a chain", 20, Never, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.leaf, &CERTIFICATES.authority]);
    }),
    arm("JWK: x5c with a chain in the wrong order", 40, Always, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.authority, &CERTIFICATES.leaf]);
    }),
    arm("JWK: x5c with another authority of the same name", 40, Always, published, |set, _| {
        set_x5c(set, &[&CERTIFICATES.leaf, &CERTIFICATES.namesake]);
    }),
    // Certificates.
    arm("certificate: octets", 500, Sometimes, uploaded, |set, dice| {
        let octets = changed(&set.own().certificate, OCTETS, dice);
        set.certificate = Some(pem_of(&octets));
    }),
    arm("certificate: base64", 500, Sometimes, uploaded, |set, dice| {
        set.certificate = set.certificate.as_deref().map(|text| dice.changed_in_columns(text));
    }),
    arm("certificate: out of its time", 40, Always, uploaded, |set, dice| {
        let (from, until) = *dice.pick(&[(-400, -1), (1, 400)]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", from, until)));
    }),
    arm("certificate: for less than ten days", 40, Always, uploaded, |set, dice| {
        let until = *dice.pick(&[5, 9]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", -1, until)));
    }),
    arm("certificate: renewed", 40, Never, uploaded, |set, dice| {
        let (from, until) = *dice.pick(&[(-400, 30), (-1, 11), (-30, 3_000), (-1, 8_000)]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", from, until)));
    }),
    arm("certificate: renewed, beside the JWK", 20, Never, certified_too, |set, _| {
        set.certificate = Some(pem_of(&certified(&set.own().key(), "acme", -1, 800)));
    }),
    arm("certificate: of another name", 40, Never, uploaded, |set, dice| {
        let name = *dice.pick(&["Zoë & Söhne", "用户", "a", "C=DE, O=\"Acme\""]);
        set.certificate = Some(pem_of(&certified(&set.own().key(), name, -1, 700)));
    }),
    arm("certificate: columns", 60, Never, uploaded, |set, dice| {
        set.certificate = set.certificate.as_deref().map(|text| in_other_columns(text, dice));
    }),
    arm("certificate: text before it", 20, Never, uploaded, |set, _| {
        set.certificate =
            set.certificate.take().map(|pem| format!("subject=CN = acme\nissuer=CN = acme\n{pem}"));
    }),
    // Private keys.
    arm("key: octets", 170, Sometimes, kept, |set, dice| {
        let block = pem::parse(&set.own().pem).expect("PEM");
        let octets = changed(block.contents(), OCTETS, dice);
        set.key = Some(pem::encode(&pem::Pem::new(block.tag(), octets)));
    }),
    arm("key: base64", 170, Sometimes, kept, |set, dice| {
        set.key = set.key.as_deref().map(|text| dice.changed_in_columns(text));
    }),
    arm("key: its public half", 10, Always, kept, |set, _| set.key = Some(set.own().public_pem())),
    arm("key: PKCS#1", 10, Never, kept, |set, _| set.key = Some(set.own().pkcs1())),
    arm("key: columns", 20, Never, kept, |set, dice| {
        set.key = set.key.as_deref().map(|text| in_other_columns(text, dice));
    }),
    // Assertions.
    arm("assertion: text", 300, Sometimes, asserted, |set, dice| {
        set.token = dice.changed(&set.token, BASE64URL);
    }),
    arm("assertion: signed by another key", 40, Always, asserted, sign_by_another),
    arm("assertion: alg of another value", 60, Always, asserted, |set, dice| {
        set.resign(|header, _| header["alg"] = strange(dice));
    }),
    arm("assertion: crit", 20, Always, asserted, |set, _| {
        set.resign(|header, _| header["crit"] = json!(["exp"]));
    }),
    arm("assertion: claim taken away", 60, Always, asserted, |set, dice| {
        let name = *dice.pick(&["iss", "sub", "aud", "exp"]);
        set.resign(|_, claims| _ = claims.as_object_mut().expect("an object").remove(name));
    }),
    arm("assertion: claim renamed", 60, Sometimes, asserted, |set, dice| {
        set.resign(|_, claims| rename(claims, dice));
    }),
    arm("assertion: claim of another value", 200, Sometimes, asserted, |set, dice| {
        set.resign(|_, claims| set_strangely(claims, &["iss", "sub", "aud", "exp", "iat", "nbf"], dice));
    }),
    arm("assertion: claim twice", 20, Always, asserted, |set, dice| {
        let [header, claims] = set.parts();
        let twice = doubled(&claims, dice);
        set.resign_text(&header.to_string(), &twice);
    }),
    // As an app authenticates itself (RFC 7523, section 2.2).
    arm("assertion: the app as its subject", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| claims["sub"] = json!(CONSUMER_KEY));
    }),
    arm("assertion: iss and sub swapped", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| (claims["iss"], claims["sub"]) = (claims["sub"].take(), claims["iss"].take()));
    }),
    arm("assertion: aud of the token endpoint", 20, Always, asserted, |set, _| {
        set.resign(|_, claims| {
            claims["aud"] = json!("https://acme.my.salesforce.com/services/oauth2/token");
        });
    }),
    arm("assertion: unknown claim", 30, Never, asserted, unknown_claim),
    arm("assertion: without what is optional", 30, Never, asserted, |set, dice| {
        let name = *dice.pick(&["kid", "typ", "iat"]);
        set.resign(|header, claims| {
            for part in [header, claims] {
                part.as_object_mut().expect("an object").remove(name);
            }
        });
    }),
    arm("assertion: aud of the login host", 30, Never, asserted, |set, _| {
        set.resign(|_, claims| claims["aud"] = json!("https://login.salesforce.com"));
    }),
    arm("assertion: white space in JSON", 20, Never, asserted, |set, dice| {
        rewrite_token(set, Style::Space, dice);
    }),
    arm("assertion: order of members", 20, Never, asserted, |set, dice| {
        rewrite_token(set, Style::Order, dice);
    }),
    arm("assertion: escapes in JSON", 20, Never, asserted, |set, dice| {
        rewrite_token(set, Style::Escapes, dice);
    }),
    // Intercom's.
    arm("Intercom: text", 450, Sometimes, messenger, |set, dice| {
        set.token = dice.changed(&set.token, BASE64URL);
    }),
    arm("Intercom: secret", 80, Sometimes, messenger, |set, dice| {
        let [header, claims] = set.parts();
        let secret = dice.changed(SECRET, BASE64URL);
        set.token = sign_by_secret(&header.to_string(), &claims.to_string(), &secret);
    }),
    arm("Intercom: header member of another value", 80, Sometimes, messenger, |set, dice| {
        set.resign(|header, _| set_strangely(header, &["alg", "crit"], dice));
    }),
    arm("Intercom: claim taken away", 30, Sometimes, messenger, |set, dice| {
        set.resign(|_, claims| take_away(claims, dice));
    }),
    arm("Intercom: claim renamed", 30, Sometimes, messenger, |set, dice| {
        set.resign(|_, claims| rename(claims, dice));
    }),
    arm("Intercom: claim of another value", 120, Sometimes, messenger, |set, dice| {
        set.resign(|_, claims| set_strangely(claims, &["user_id", "exp", "iat", "nbf"], dice));
    }),
    arm("Intercom: claim twice", 20, Always, messenger, |set, dice| {
        let [header, claims] = set.parts();
        let twice = doubled(&claims, dice);
        set.resign_text(&header.to_string(), &twice);
    }),
    arm("Intercom: unknown claim", 30, Never, messenger, unknown_claim),
    arm("Intercom: without what is optional", 30, Never, messenger, |set, dice| {
        let name = *dice.pick(&["typ", "iat", "exp"]);
        set.resign(|header, claims| {
            for part in [header, claims] {
                part.as_object_mut().expect("an object").remove(name);
            }
        });
    }),
    arm("Intercom: white space in JSON", 20, Never, messenger, |set, dice| {
        rewrite_token(set, Style::Space, dice);
    }),
    arm("Intercom: order of members", 20, Never, messenger, |set, dice| {
        rewrite_token(set, Style::Order, dice);
    }),
    arm("Intercom: escapes in JSON", 20, Never, messenger, |set, dice| {
        rewrite_token(set, Style::Escapes, dice);
    }),
    // Configurations.
    arm("configuration: text", 250, Sometimes, configured, |set, dice| {
        set.configuration = Some(dice.changed(CONFIGURATION, TOML));
    }),
    arm("configuration: another identity profile", 80, Always, configured, |set, dice| {
        let (from, to) = *dice.pick(&[
            ("issuer = \"https://acme.example\"", "issuer = \"https://acme.example/\""),
            ("issuer = \"https://acme.example\"", "issuer = \"acme.example\""),
            ("issuer = \"https://acme.example\"", "issuer = \"https://ACME.example\""),
            ("algorithm = \"RS256\"", "algorithm = \"RS512\""),
            ("keyset = \"web\"", "keyset = \"crm\""),
            ("directory = \"keys/identity\"", "directory = \"keys/oauth\""),
        ]);
        set.configuration = Some(CONFIGURATION.replacen(from, to, 1));
    }),
    arm("configuration: comments", 20, Never, configured, |set, dice| {
        let lines = CONFIGURATION.lines().map(|line| {
            let note = *dice.pick(&["", " # a note", "\n# [identity.other]", "\n", "\t"]);
            format!("{line}{note}\n")
        });
        set.configuration = Some(lines.collect());
    }),
    arm("configuration: order of tables", 20, Never, configured, |set, dice| {
        let tables: Vec<&str> = CONFIGURATION.split("\n[").filter(|table| !table.is_empty()).collect();
        let tables = shuffled(tables, dice).into_iter().map(|table| format!("[{table}\n"));
        set.configuration = Some(tables.collect());
    }),
    arm("configuration: quotes", 20, Never, configured, |set, _| {
        set.configuration = Some(CONFIGURATION.replace('"', "'"));
    }),
];

/// An identity token, its private key and the certificate.
fn keyed_too(dice: &mut Dice) -> Set {
    Set::identity(dice.now).with_certificate().with_key()
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

/// Values of every kind that may stand where others should. None is what a healthy set has.
fn strange(dice: &mut Dice) -> Value {
    let now = dice.now;
    dice.pick(&[
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

fn take_away(object: &mut Value, dice: &mut Dice) {
    let name = dice.pick(&names(object)).clone();
    object.as_object_mut().expect("an object").remove(&name);
}

fn rename(object: &mut Value, dice: &mut Dice) {
    let name = dice.pick(&names(object)).clone();
    let members = object.as_object_mut().expect("an object");
    let value = members.remove(&name).expect("there");
    // `x5t` and `X5T`, `n` and `N`, and what has no small letter.
    members.insert(
        format!("{}{}", name.to_uppercase(), if name == name.to_uppercase() { "_" } else { "" }),
        value,
    );
}

fn set_strangely(object: &mut Value, names: &[&str], dice: &mut Dice) {
    let name = *dice.pick(names);
    object[name] = strange(dice);
}

/// The text of an object in which one member stands twice, before the others or behind them.
fn doubled(object: &Value, dice: &mut Dice) -> String {
    let member = format!("{}:{}", json!(dice.pick(&names(object))), strange(dice));
    let text = object.to_string();
    let members = &text[1..text.len() - 1];
    if dice.below(2) == 0 { format!("{{{member},{members}}}") } else { format!("{{{members},{member}}}") }
}

fn unknown_claim(set: &mut Set, dice: &mut Dice) {
    let name = *dice.pick(&["department", "email", "name", "ver", "roles", "https://acme.example/plan"]);
    let value = strange(dice);
    set.resign(|_, claims| claims[name] = value);
}

fn sign_by_another(set: &mut Set, _: &mut Dice) {
    let [header, claims] = set.parts();
    set.token = set.others().sign(&header.to_string(), &claims.to_string());
}

fn rewrite_token(set: &mut Set, style: Style, dice: &mut Dice) {
    let [header, claims] = set.parts().map(|part| rewritten(&part, style, dice));
    set.resign_text(&header, &claims);
}

fn rewrite_jwk(set: &mut Set, style: Style, dice: &mut Dice) {
    set.jwk = Some(rewritten(&set.jwk_value(), style, dice));
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

fn with_last_octet_altered(der: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut der = der.to_vec();
    *der.last_mut().expect("octets") ^= 1 << dice.below(8);
    der
}

/// PEM text with lines of another length, and with other line ends.
fn in_other_columns(text: &str, dice: &mut Dice) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let [begin, base64 @ .., end] = lines.as_slice() else { panic!("PEM") };
    let base64 = base64.concat();
    let width = *dice.pick(&[32, 48, 60, 72, 76]);
    let columns = base64.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("ASCII"));
    let newline = *dice.pick(&["\n", "\r\n"]);
    let lines: Vec<&str> = std::iter::once(*begin).chain(columns).chain([*end, ""]).collect();
    lines.join(newline)
}

#[test]
fn the_arms_have_names_of_their_own() {
    let names: std::collections::BTreeSet<&str> = ARMS.iter().map(|arm| arm.name).collect();
    assert_eq!(names.len(), ARMS.len());
}
