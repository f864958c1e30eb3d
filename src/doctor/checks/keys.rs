//! Checks of private keys and certificates.

use std::path::Path;

use crate::clock::UnixTime;
use crate::config::ProfileKind;
use crate::doctor::artifact::{FileAccess, GivenKey};
use crate::doctor::certificate::CertificateInfo;
use crate::doctor::finding::{CheckOutcome, Judgement, Observation, Observations};
use crate::doctor::formatting::{backquoted_list, escape_and_truncate, format_duration, relative_date};
use crate::doctor::input::{CheckInput, is_used_by};
use crate::doctor::jwk::{JwkDocument, ParsedJwk};
use crate::keys::{
    CERTIFICATE_MIN_SECONDS_LEFT, CERTIFICATE_WARN_SECONDS_LEFT, KeyRing, Keyset, KeysetKey, PrivateKeyError,
    PublicNumbers, SignatureStatus, UnreadableKey,
};

/// The largest certificate that the upload form of an app accepts, in bytes.
const MAX_UPLOAD_BYTES: usize = 4 << 10;
/// The longest sensible validity of a certificate, in seconds. With a longer one, a change of keys is probably never planned.
const MAX_SENSIBLE_VALIDITY: i64 = 20 * 365 * 86_400;

pub(crate) fn key_form(input: &CheckInput<'_>) -> Observations {
    let given = input.given.keys.iter().filter_map(|key| match &key.parsed {
        Ok(_) if let Some(warning) = key.pem_quirks.warning() => Some(
            Observation::warn(&key.about, warning)
                .with_advice("for Salesforce's utility and other tools write it as `openssl pkey` does"),
        ),
        Ok(_) => Some(Observation::pass(&key.about, "holds a private RSA key in PEM form")),
        Err(PrivateKeyError::Unreadable(
            UnreadableKey::NotRsa(_) | UnreadableKey::Pss | UnreadableKey::MultiPrime,
        )) => None,
        Err(PrivateKeyError::Unreadable(why)) => Some(Observation::fail(&key.about, why.to_string())),
        Err(_) => None,
    });
    given.chain(input.configured.keys().map(|(about, ..)| Observation::pass(about, "loads"))).collect()
}

pub(crate) fn key_strength(input: &CheckInput<'_>) -> Observations {
    let given = input.given.keys.iter().filter_map(|key| match &key.parsed {
        Ok(numbers) => Some(Observation::pass(&key.about, format!("RSA, {} bits", numbers.bits()))),
        Err(PrivateKeyError::Unreadable(
            why @ (UnreadableKey::NotRsa(_) | UnreadableKey::Pss | UnreadableKey::MultiPrime),
        )) => Some(Observation::fail(&key.about, why.to_string())),
        Err(PrivateKeyError::Unreadable(_)) => None,
        Err(why) => Some(Observation::fail(&key.about, why.to_string())),
    });
    let uploaded = input.jwks().filter_map(|(_, jwk)| {
        let about = &jwk.about;
        let numbers = jwk.numbers()?;
        if jwk.text("kty").is_some_and(|kty| kty != "RSA") {
            return None;
        }
        Some(public_key_strength(about, &numbers))
    });
    let certified = input.given.chains().flat_map(|(about, chain)| {
        chain
            .iter()
            .filter_map(move |certificate| Some(public_key_strength(about, certificate.key.as_ref()?)))
    });
    let ring = input
        .configured
        .keys()
        .map(|(about, _, key)| Observation::pass(about, format!("RSA, {} bits", key.public().bits)));
    let public = input.given.public_keys.iter().map(|(about, numbers)| public_key_strength(about, numbers));
    given.chain(uploaded).chain(public).chain(certified).chain(ring).collect()
}

fn public_key_strength(about: &str, numbers: &PublicNumbers) -> Observation {
    match numbers.bits() {
        bits if bits < 2048 => {
            Observation::fail(about, format!("an RSA key of {bits} bits; at least 2048 are needed"))
        }
        _ if numbers.e != [1, 0, 1] => Observation::fail(about, "its public exponent isn't 65537"),
        bits => Observation::pass(about, format!("RSA, {bits} bits")),
    }
}

pub(crate) fn key_file_mode(input: &CheckInput<'_>) -> Observations {
    let is_private = |key: &&GivenKey| match &key.parsed {
        Err(PrivateKeyError::Unreadable(why)) => {
            matches!(
                why,
                UnreadableKey::NoPassphrase | UnreadableKey::WrongPassphrase | UnreadableKey::NotRsa(_)
            )
        }
        Ok(_) | Err(_) => true,
    };
    input
        .given
        .keys
        .iter()
        .filter(is_private)
        .map(|key| match &key.access {
            FileAccess::OwnerOnly => Observation::pass(&key.about, "nobody else can read it"),
            // The service rejects the file, but a token signed with the key is valid nevertheless.
            FileAccess::Others(why) if input.given.verify_only => Observation::warn(&key.about, why.clone()),
            FileAccess::Others(why) => Observation::fail(&key.about, why.clone()),
            FileAccess::Unknown => {
                Observation::skipped(&key.about, "it came through a pipe, not from a file")
            }
        })
        .collect()
}

/// The certificate chains of all files and JWKs, each with its label.
fn certificate_chains<'a>(
    input: &'a CheckInput<'_>,
) -> impl Iterator<Item = (&'a str, &'a [CertificateInfo])> {
    let jwks = input.jwks().map(|(_, jwk)| (jwk.about.as_str(), jwk.chain()));
    input.given.chains().chain(jwks.filter(|(_, chain)| !chain.is_empty()))
}

pub(crate) fn certificate_dates(input: &CheckInput<'_>) -> Observations {
    let now = input.now;
    let given = certificate_chains(input).flat_map(|(about, chain)| {
        chain.iter().enumerate().map(move |(at, certificate)| {
            let seen =
                validity(about, &position_in_chain(at), certificate.not_before, certificate.not_after, now);
            let ends_soon = certificate.not_before <= now && now.seconds_until(certificate.not_after) > 0;
            // Only an upload requires ten days.
            if input.given.verify_only && ends_soon { seen.capped_at(CheckOutcome::Warn) } else { seen }
        })
    });
    let ring = input.configured.keys().flat_map(|(about, _, key)| {
        let published = key.certificate(now);
        let ours = (key.configured_certificate().is_none()
            || key.configured_certificate() == Some(&published))
        .then(|| validity(&about, &position_in_chain(0), published.not_before, published.not_after, now));
        let given = key.configured_certificate().filter(|given| **given != published);
        let given = given.map(|given| {
            let subject = format!("{}.crt (a derived one is published in its place) ", key.kid);
            validity(&about, &subject, given.not_before, given.not_after, now)
        });
        ours.into_iter().chain(given).collect::<Vec<_>>()
    });
    given.chain(ring).collect()
}

/// The label of the certificate at index `at` of a chain.
fn position_in_chain(at: usize) -> String {
    if at == 0 { "its certificate ".to_owned() } else { format!("certificate {} of its chain ", at + 1) }
}

/// Judges the validity period of a certificate. `label` begins the message.
fn validity(
    about: &str,
    label: &str,
    not_before: UnixTime,
    not_after: UnixTime,
    now: UnixTime,
) -> Observation {
    let left = now.seconds_until(not_after);
    let until = relative_date(not_after, now);
    match left {
        _ if not_before > now => {
            Observation::fail(about, format!("{label}isn't valid before {}", relative_date(not_before, now)))
        }
        ..=0 => Observation::fail(about, format!("{label}expired {until}")),
        left if left <= CERTIFICATE_MIN_SECONDS_LEFT => {
            Observation::fail(about, format!("{label}expires {until}: fewer than ten days are left"))
        }
        left if left <= CERTIFICATE_WARN_SECONDS_LEFT => {
            Observation::warn(about, format!("{label}expires {until}"))
        }
        _ => Observation::pass(about, format!("{label}is valid until {until}")),
    }
}

pub(crate) fn certificate_form(input: &CheckInput<'_>) -> Observations {
    let broken = input.given.certificates.iter().filter_map(|given| {
        let why = given.parsed.as_ref().err()?;
        Some(Observation::fail(&given.about, why.clone()))
    });
    let read = certificate_chains(input).flat_map(|(about, chain)| {
        let mut faults: Vec<String> = Vec::new();
        if chain.first().is_some_and(|first| first.key.is_none()) {
            faults.push("certifies a key that isn't RSA".to_owned());
        }
        for (at, certificate) in chain.iter().enumerate() {
            faults.extend(certificate.faults().iter().map(|fault| format!("{}{fault}", position_in_chain(at))));
        }
        let mismatch =
            chain.windows(2).position(|pair| matches!(pair, [one, next] if !one.is_issued_by(next)));
        if let Some(at) = mismatch {
            faults.push(format!(
                "{}is not certified by the one behind it: a chain goes from the key's certificate to its authority's",
                position_in_chain(at)
            ));
        }
        let mut unchecked = None;
        for (at, certificate) in chain.iter().enumerate() {
            let authority = chain.get(at + 1).filter(|next| certificate.is_issued_by(next));
            match certificate.signature_by(authority) {
                SignatureStatus::Invalid if authority.is_some() => {
                    faults.push(format!("{}isn't signed by the one behind it, which has its authority's name", position_in_chain(at)));
                }
                // A bad self-signature is among `faults()` of the certificate.
                SignatureStatus::Valid | SignatureStatus::Invalid => {}
                SignatureStatus::NoKey => {
                    unchecked = Some("a signature in it is its authority's, whose key isn't here to check it by");
                }
                SignatureStatus::UnknownAlgorithm if authority.is_none() => faults.push(format!(
                    "{}is signed in a way that can't be checked here (RSASSA-PSS?), and that not every tool reads: make it as \
                     `openssl req -x509` does",
                    position_in_chain(at)
                )),
                SignatureStatus::UnknownAlgorithm => {
                    unchecked = Some("a signature in it is made in a way that can't be checked here: use openssl verify");
                }
            }
        }
        let unchecked = unchecked.filter(|_| faults.is_empty()).map(|reason| Observation::skipped(about, reason));
        let seen = Observation::from_faults(about, &faults, "holds an X.509 certificate of an RSA key");
        std::iter::once(seen).chain(unchecked).collect::<Vec<_>>()
    });
    let odd = input.given.certificates.iter().filter_map(|given| {
        let odd = Observation::warn(&given.about, given.pem_quirks.warning()?);
        Some(odd.with_advice("for other tools write it anew: `openssl x509 -in FILE -out NEW`"))
    });
    broken.chain(read).chain(odd).collect()
}

/// Checks that private keys, JWKs, certificates and public keys belong together, and whether they are the configured keys.
pub(crate) fn key_pair(input: &CheckInput<'_>) -> Observations {
    let certified: Observations = input
        .jwks()
        .filter_map(|(_, jwk)| {
            let numbers = jwk.numbers()?;
            Some(match_chain(&jwk.about, &numbers, "`n` and `e`", jwk.chain())?.unwrap_or_else(|fault| fault))
        })
        .collect();
    let fails = |observation: &Observation| match observation {
        Observation::Judged(Judgement { outcome, about, .. }) if *outcome != CheckOutcome::Pass => {
            Some(about.clone())
        }
        _ => None,
    };
    let broken: Vec<String> = certified.iter().filter_map(fails).collect();
    // One fault is one finding: a JWK that contradicts its own certificate isn't compared with other keys.
    let is_sound = |observation: &Observation| match observation {
        Observation::Judged(Judgement { about, .. }) => !broken.contains(about),
        Observation::Skipped(_) => true,
    };
    let others = given_pairs(input).into_iter().chain(compare_with_configured_keys(input)).filter(is_sound);
    certified.into_iter().chain(others).collect()
}

/// Whether the first certificate of a chain certifies the key with `numbers`, labelled `name`. `None` for an empty chain.
fn match_chain(
    about: &str,
    numbers: &PublicNumbers,
    name: &str,
    chain: &[CertificateInfo],
) -> Option<Result<Observation, Observation>> {
    let place = chain.iter().position(|certificate| certificate.key.as_ref() == Some(numbers));
    Some(match place {
        None if chain.is_empty() => return None,
        Some(0) => Ok(Observation::pass(about, format!("{name} and its certificate are one key"))),
        Some(at) => Err(Observation::fail(
            about,
            format!(
                "its chain is in the wrong order: the certificate of {name} is number {} and must come first",
                at + 1
            ),
        )),
        None => {
            Err(Observation::fail(about, format!("the certificate in `x5c` is of another key than {name}")))
        }
    })
}

/// Compares supplied private keys with public halves: JWKs, certificates and public keys. Without a private key, compares
/// these with each other.
fn given_pairs(input: &CheckInput<'_>) -> Observations {
    let privates: Vec<(&str, &PublicNumbers)> = input.given.private_keys().collect();
    if privates.is_empty() {
        return public_pairs(input);
    }
    let names = privates.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let mismatch = |about: &str| Observation::fail(about, format!("isn't the public half of {names}"));
    let jwks: Vec<(&str, PublicNumbers)> =
        input.jwks().filter_map(|(_, jwk)| Some((jwk.about.as_str(), jwk.numbers()?))).collect();
    let private_of = |numbers: &PublicNumbers| privates.iter().find(|(_, private)| *private == numbers);
    let has_half = jwks.iter().any(|(_, numbers)| private_of(numbers).is_some());
    let is_compared_with_configured_keys = ring_to_compare_with(input).is_some();
    let jwks = jwks.iter().filter_map(|(about, numbers)| match private_of(numbers) {
        Some((name, _)) => Some(Observation::pass(*about, format!("is the public half of {name}"))),
        None if has_half && is_compared_with_configured_keys => None,
        // For example the previous key or the next one.
        None if has_half => Some(Observation::skipped(*about, "no private key of it was given")),
        None => Some(mismatch(about)),
    });
    let public_keys = input.given.public_keys.iter().map(|(about, numbers)| match private_of(numbers) {
        Some((name, _)) => Observation::pass(about, format!("is the public half of {name}")),
        None => mismatch(about),
    });
    let files = input.given.chains().map(|(about, chain)| {
        let found =
            privates.iter().find_map(|(name, numbers)| match_chain(about, numbers, name, chain)?.ok());
        let in_another_place = || {
            privates.iter().find_map(|(name, numbers)| {
                let is_there = chain.iter().any(|certificate| certificate.key.as_ref() == Some(*numbers));
                match_chain(about, numbers, name, chain).filter(|_| is_there)?.err()
            })
        };
        found.or_else(in_another_place).unwrap_or_else(|| mismatch(about))
    });
    jwks.chain(public_keys).chain(files).collect()
}

/// Compares certificates and public keys with the JWKs. Without a JWK, compares certificates with public keys.
fn public_pairs(input: &CheckInput<'_>) -> Observations {
    let jwks: Vec<(&str, PublicNumbers)> =
        input.given.jwks().filter_map(|jwk| Some((jwk.about.as_str(), jwk.numbers()?))).collect();
    let public_keys = || input.given.public_keys.iter().map(|(about, numbers)| (about.as_str(), numbers));
    let halves = if jwks.is_empty() {
        public_keys().map(|(about, numbers)| (about, numbers.clone())).collect()
    } else {
        jwks.clone()
    };
    if halves.is_empty() {
        return Vec::new();
    }
    let names = halves.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let mismatch = |about| Observation::fail(about, format!("is of another key than {names}"));
    let public_keys = public_keys().filter(|_| !jwks.is_empty()).map(|(about, numbers)| {
        match jwks.iter().find(|(_, half)| half == numbers) {
            Some((name, _)) => Observation::pass(about, format!("is the key of {name}")),
            None => mismatch(about),
        }
    });
    let files = input.given.chains().map(|(about, chain)| {
        let found = halves.iter().find_map(|(name, numbers)| match_chain(about, numbers, name, chain)?.ok());
        found.unwrap_or_else(|| mismatch(about))
    });
    public_keys.chain(files).collect()
}

/// The fix for a public half whose private key is unknown.
const UNCONFIGURED_HALF_FIX: &str = "name the configuration that has its private key (`--config FILE`), or give the file of that private \
                                key too. If it was uploaded for this configuration, upload the key that signs: `tokenmint jwk KID` \
                                prints its JWK";
/// The fix for a private key that isn't configured.
const UNCONFIGURED_KEY_FIX: &str = "name the configuration that has it (`--config FILE`); to sign with it here, put it into the `directory` \
                               of a keyset as KID.key, and upload its JWK or certificate";

/// The configured keys with which supplied files are compared; `None` if there are none.
fn ring_to_compare_with<'a>(input: &CheckInput<'a>) -> Option<&'a KeyRing> {
    let has_keys = |ring: &&KeyRing| ring.keys().next().is_some();
    // For a single token, the check of its signature says more.
    input.configured.ring.filter(has_keys).filter(|_| !input.given.verify_only)
}

/// The part of a key pair that a supplied file holds, for messages.
#[derive(Clone, Copy)]
enum Half {
    Private,
    Public,
    Certificate,
}

impl Half {
    const fn of(self) -> &'static str {
        match self {
            Self::Private => "",
            Self::Public => "the public half of ",
            Self::Certificate => "the certificate of ",
        }
    }
}

/// Compares every supplied key, certificate and JWK with the configured keys: people give a file to learn whether its key is
/// the configured one. [`given_pairs`] compares the public halves of supplied private keys. Of these, only JWKs that have the
/// key or the id of a configured key are compared here too.
fn compare_with_configured_keys(input: &CheckInput<'_>) -> Observations {
    if ring_to_compare_with(input).is_none() {
        return Vec::new();
    }
    let keys = input.given.private_keys().map(|(about, numbers)| match find_configured(input, numbers) {
        Some(name) => Observation::pass(about, format!("is the private key of {name}")),
        None => unknown_key(input, about, None, Half::Private),
    });
    let public_keys = input.given.public_keys.iter().filter(|(_, numbers)| !is_given_half(input, numbers));
    let public_keys = public_keys.map(|(about, numbers)| match find_configured(input, numbers) {
        Some(name) => Observation::pass(about, format!("is the public half of {name}")),
        None => unknown_key(input, about, None, Half::Public),
    });
    let chains = input.given.chains().filter_map(|(about, chain)| {
        let first = chain.first()?;
        // The check `certificate-form` reports a key that isn't RSA.
        first.key.as_ref().filter(|numbers| !is_given_half(input, numbers))?;
        let compared = chain.iter().find_map(|certificate| {
            let numbers = certificate.key.as_ref()?;
            match_chain(about, numbers, &find_configured(input, numbers)?, chain)
        });
        let compared = compared.map(|compared| compared.unwrap_or_else(|fault| fault));
        Some(compared.unwrap_or_else(|| unknown_key(input, about, first.common_name(), Half::Certificate)))
    });
    let jwks = input.given.jwk_documents().flat_map(|document| compare_document(input, document));
    keys.chain(public_keys).chain(chains).chain(jwks).collect()
}

/// Compares the JWKs of a document with the configured keys. A JWK Set may hold other keys beside a configured one.
fn compare_document(input: &CheckInput<'_>, document: &JwkDocument) -> Observations {
    let is_known =
        |numbers: &PublicNumbers| find_configured(input, numbers).is_some() || is_given_half(input, numbers);
    // The check `jwks-current` compares a served set.
    let may_hold_others = document.served
        || document.keys.iter().any(|jwk| jwk.numbers().is_some_and(|numbers| is_known(&numbers)));
    let compare = |jwk: &ParsedJwk| {
        // The check `jwk-numbers` reports numbers that can't be read.
        let numbers = jwk.numbers()?;
        if let Some((keyset, key)) = jwk.kid().and_then(|kid| input.configured.ring?.find(kid)) {
            return Some(compare_jwk_with(jwk, &numbers, keyset, key));
        }
        match find_configured(input, &numbers) {
            Some(name) => Some(Observation::pass(&jwk.about, format!("is the public half of {name}"))),
            None if is_given_half(input, &numbers) => None,
            // For example the previous key or the next one.
            None if may_hold_others => {
                Some(Observation::skipped(&jwk.about, "no private key of it was given or is configured"))
            }
            None => unknown_jwk(input, jwk),
        }
    };
    document.keys.iter().filter_map(compare).collect()
}

/// Judges a JWK that is the public half of none of the configured keys, and has none of their ids.
fn unknown_jwk(input: &CheckInput<'_>, jwk: &ParsedJwk) -> Option<Observation> {
    let retired = jwk.kid().and_then(|kid| Some((kid, input.retired_at(kid)?)));
    let Some((kid, when)) = retired else {
        return Some(unknown_key(input, &jwk.about, None, Half::Public));
    };
    // The check `token-kid` reports a token of a retired key.
    if input.jwts().any(|(_, parts)| parts.header("kid") == Some(kid)) {
        return None;
    }
    let seen = format!(
        "has the key id `{}`, of a key that was retired {when}, and isn't the public half of a configured key ({})",
        escape_and_truncate(kid),
        configured_kids(input)
    );
    Some(Observation::warn(&jwk.about, seen).with_advice(
        "delete it in Setup > Enhanced Chat User Verification > Keys if it is still there, and upload the key that signs: \
         `tokenmint jwk KID` prints its JWK",
    ))
}

/// Compares a JWK with the configured key of the same id.
fn compare_jwk_with(
    jwk: &ParsedJwk,
    numbers: &PublicNumbers,
    keyset: &Keyset,
    key: &KeysetKey,
) -> Observation {
    if *numbers != key.public().numbers() {
        let seen = format!(
            "has the key id `{}`, but isn't the public half of that key of the configuration (keysets.{})",
            key.kid, keyset.name
        );
        return Observation::fail(&jwk.about, seen);
    }
    if let Some(alg) = jwk.text("alg").filter(|alg| *alg != keyset.algorithm.as_str()) {
        let (alg, signs) = (escape_and_truncate(alg), keyset.algorithm.as_str());
        let seen = format!("its `alg` is {alg}, and keysets.{} signs with {signs}", keyset.name);
        return Observation::fail(&jwk.about, seen).with_advice(
            "upload the JWK that `tokenmint jwk KID` prints, or take `algorithm` of the profile back",
        );
    }
    Observation::pass(&jwk.about, format!("is the public half of `{}`", key.kid))
}

/// The label of the configured key with these numbers.
fn find_configured(input: &CheckInput<'_>, numbers: &PublicNumbers) -> Option<String> {
    let mut keys = input.configured.keys();
    keys.find(|(_, _, key)| key.public().numbers() == *numbers).map(|(about, ..)| about)
}

fn is_given_half(input: &CheckInput<'_>, numbers: &PublicNumbers) -> bool {
    input.given.private_keys().any(|(_, private)| private == numbers)
}

/// Judges a file whose key is none of the configured ones: a failure if its common name or its file name is the id of one.
fn unknown_key(input: &CheckInput<'_>, about: &str, common_name: Option<&str>, half: Half) -> Observation {
    let of = half.of();
    let file_name = Path::new(about).file_stem().and_then(|stem| stem.to_str());
    let claims = [("has the subject", common_name), ("has the file name", file_name)];
    let configured =
        claims.into_iter().find_map(|(how, name)| Some((how, input.configured.ring?.find(name?)?)));
    if let Some((how, (keyset, key))) = configured {
        let seen = format!(
            "{how} `{}`, but isn't {of}that key of the configuration (keysets.{})",
            key.kid, keyset.name
        );
        return Observation::fail(about, seen);
    }
    let fix = if matches!(half, Half::Private) { UNCONFIGURED_KEY_FIX } else { UNCONFIGURED_HALF_FIX };
    Observation::warn(about, format!("isn't {of}a configured key ({})", configured_kids(input)))
        .with_advice(fix)
}

/// The ids of the configured keys, at most `MAX_NAMED_KEYS`.
fn configured_kids(input: &CheckInput<'_>) -> String {
    const MAX_NAMED_KEYS: usize = 8;
    let kids: Vec<&str> = input.configured.keys().map(|(_, _, key)| key.kid.as_str()).collect();
    let more = if kids.len() > MAX_NAMED_KEYS { ", …" } else { "" };
    backquoted_list(kids.into_iter().take(MAX_NAMED_KEYS)) + more
}

/// Finds JWKs that are the public half of a configured key, but have an id that no configured key has.
pub(super) fn pairs_with_another_kid(input: &CheckInput<'_>) -> Observations {
    if input.given.verify_only {
        return Vec::new();
    }
    input
        .given
        .jwks()
        .filter_map(|jwk| {
            let (kid, numbers) = (jwk.kid()?, jwk.numbers()?);
            let same = |(_, _, key): &(String, _, &KeysetKey)| key.public().numbers() == numbers;
            let (about, _, key) = input.configured.keys().find(same)?;
            let strange = key.kid.as_str() != kid && input.configured.ring?.find(kid).is_none();
            strange.then(|| {
                let seen =
                    format!("is the public half of {about}, under the id `{}`", escape_and_truncate(kid));
                Observation::fail(&jwk.about, seen)
            })
        })
        .collect()
}

pub(crate) fn app_certificate(input: &CheckInput<'_>) -> Observations {
    if input.given.verify_only {
        return Vec::new();
    }
    let files = input.given.chains().filter_map(|(about, chain)| {
        let certificate = chain.first()?;
        Some((
            about.to_owned(),
            chain.iter().map(|certificate| certificate.pem_size).sum::<usize>(),
            certificate.not_before.seconds_until(certificate.not_after),
        ))
    });
    let ring = input.configured.keys().filter(|(_, keyset, _)| is_used_by(keyset, ProfileKind::Oauth)).map(
        |(about, _, key)| {
            let published = key.certificate(input.now);
            (about, published.pem().len(), published.not_before.seconds_until(published.not_after))
        },
    );
    files
        .chain(ring)
        .map(|(about, size, life)| match (size, life) {
            (size, _) if size > MAX_UPLOAD_BYTES => {
                Observation::fail(about, format!("its certificate has {size} bytes; an app takes 4 KB"))
            }
            (_, life) if life > MAX_SENSIBLE_VALIDITY => Observation::warn(
                about,
                format!(
                    "its certificate is made for {}, so its key will not be changed",
                    format_duration(life)
                ),
            )
            .with_advice("make one for a few years: `tokenmint keys new`, or openssl's -days 1095"),
            _ => Observation::pass(about, "its certificate can be uploaded to an app"),
        })
        .collect()
}

/// Checks that no key signs both identity tokens and assertions (RFC 8725, section 3.12).
pub(crate) fn separate_keys(input: &CheckInput<'_>) -> Observations {
    let of = |kind: ProfileKind| {
        input.configured.keys().filter(move |(_, keyset, _)| is_used_by(keyset, kind)).collect::<Vec<_>>()
    };
    let oauth = of(ProfileKind::Oauth);
    if oauth.is_empty() {
        return Vec::new();
    }
    of(ProfileKind::Identity)
        .into_iter()
        .map(|(about, _, key)| match oauth.iter().find(|(_, _, other)| other.public().n == key.public().n) {
            Some((other, ..)) => Observation::warn(
                about,
                format!("identity tokens and OAuth assertions are signed by one key ({other})"),
            ),
            None => Observation::pass(about, "signs no OAuth assertions"),
        })
        .collect()
}

pub(crate) fn signing_key(input: &CheckInput<'_>) -> Observations {
    let Some(ring) = input.configured.ring else { return Vec::new() };
    ring.keysets
        .values()
        .map(|keyset| {
            let about = format!("keysets.{}", keyset.name);
            match keyset.signing_position(input.now).and_then(|at| keyset.keys.get(at)) {
                _ if keyset.is_closed() => Observation::skipped(
                    about,
                    "its store gives it no key (sealed-keys or remote-keys says why)",
                ),
                Some(key) => Observation::pass(about, format!("`{}` signs", key.kid)),
                None => Observation::fail(about, "no key signs now"),
            }
        })
        .collect()
}
