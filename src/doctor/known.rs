//! What the checks look at. What somebody gave and what the configuration says are kept apart: a check that judges by one
//! never reaches for the other unnoticed.

use super::answers::{Answer, Fetched};
use super::certificate::{Certificate, GivenCertificate};
use super::jwk::{Jwk, JwkDocument};
use super::material::{GivenKey, Material};
use super::token::{Parts, UnverifiedToken};
use crate::clock::UnixTime;
use crate::config::{Config, Hs256Kind, Identity, Kind, Messaging, Oauth, Problem};
use crate::keys::{Key, KeyRing, Keyset, Numbers, State};

/// For whom a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Identity,
    Assertion,
    Hs256(Hs256Kind),
}

/// All that the checks look at.
pub struct Known<'a> {
    pub now: UnixTime,
    pub configured: Configured<'a>,
    pub given: Given,
    /// `None` where nobody was to be asked.
    pub answers: Option<Vec<Answer>>,
}

/// What the configuration says, as far as there is one.
#[derive(Default)]
pub struct Configured<'a> {
    pub config: Option<&'a Config>,
    pub ring: Option<&'a KeyRing>,
    /// Why there is no configuration or ring, though there should be.
    pub problems: &'a [Problem],
    /// What is odd about them.
    pub warnings: Vec<&'a Problem>,
}

/// What somebody gave. A token is judged by what was given, and by the configuration only where nothing was.
#[derive(Default)]
pub struct Given {
    /// The issuer that Setup has, as somebody read it there.
    pub issuer: Option<String>,
    /// What the tokens are for, as somebody said.
    pub purpose: Option<Purpose>,
    pub keys: Vec<GivenKey>,
    /// What a file with a public key alone is called, and that key.
    pub public_keys: Vec<(String, Numbers)>,
    pub certificates: Vec<GivenCertificate>,
    pub jwks: Vec<JwkDocument>,
    /// JWK Sets of addresses that were given.
    pub fetched: Vec<Fetched>,
    pub tokens: Vec<UnverifiedToken>,
    /// Whether the public halves only verify here, and nobody uploads them.
    pub verifies_only: bool,
}

impl Given {
    pub fn add(&mut self, material: Material) {
        match material {
            Material::Key(key) => self.keys.push(key),
            Material::PublicKey { about, numbers } => self.public_keys.push((about, numbers)),
            Material::Certificate(certificate) => self.certificates.push(certificate),
            Material::Jwk(document) => self.jwks.push(document),
            Material::Token(token) => self.tokens.push(token),
        }
    }

    /// The documents that were given, and those of the addresses that were.
    pub fn documents(&self) -> impl Iterator<Item = &JwkDocument> {
        self.jwks.iter().chain(self.fetched.iter().filter_map(|fetched| fetched.document.as_ref()))
    }

    pub fn jwks(&self) -> impl Iterator<Item = &Jwk> {
        self.documents().flat_map(|document| &document.keys)
    }

    /// The private keys that could be read.
    pub fn private_keys(&self) -> impl Iterator<Item = (&str, &Numbers)> {
        self.keys.iter().filter_map(|key| Some((key.about.as_str(), key.read.as_ref().ok()?)))
    }

    /// The files with certificates that could be read.
    pub fn chains(&self) -> impl Iterator<Item = (&str, &[Certificate])> {
        self.certificates.iter().filter_map(|given| Some((given.about.as_str(), given.read.as_deref().ok()?)))
    }

    /// What everything that was given to judge `token` is called. A set may hold keys for other tokens, and for other uses (RFC
    /// 7517, section 5): where one of its keys made the signature, and none other has its id, the others say nothing of the token.
    pub fn names_for<'a>(&'a self, token: &'a UnverifiedToken) -> Vec<&'a str> {
        let parts = token.parts.as_ref().ok();
        let signed = |jwk: &&Jwk| {
            parts.is_some_and(|parts| jwk.numbers().is_some_and(|numbers| parts.is_signed_by(&numbers)))
        };
        let of_documents = self.documents().flat_map(|document| {
            let with_id = |kid| document.keys.iter().filter(move |jwk| jwk.kid() == kid).count();
            let maker = document.keys.iter().find(signed).filter(|_| document.keys.len() > 1);
            let maker = maker.filter(|maker| with_id(maker.kid()) == 1);
            let jwks = document.keys.iter().map(|jwk| &jwk.about);
            let is_for_it = move |about: &&String| maker.is_none_or(|maker| maker.about == **about);
            let own = maker.is_none().then_some(&document.about);
            jwks.filter(is_for_it).chain(own)
        });
        let keys = self.keys.iter().map(|key| &key.about);
        let public_keys = self.public_keys.iter().map(|(about, _)| about);
        let certificates = self.certificates.iter().map(|certificate| &certificate.about);
        let addresses = self.fetched.iter().map(|fetched| &fetched.url);
        let all = keys.chain(public_keys).chain(certificates).chain(of_documents).chain(addresses);
        all.chain([&token.about]).map(String::as_str).collect()
    }

    /// Whether something was given that may verify a token, readable or not.
    pub const fn verifies(&self) -> bool {
        !(self.keys.is_empty()
            && self.public_keys.is_empty()
            && self.certificates.is_empty()
            && self.jwks.is_empty()
            && self.fetched.is_empty())
    }
}

impl<'a> Configured<'a> {
    pub fn identity(&self) -> impl Iterator<Item = &'a Identity> + use<'a> {
        self.config.into_iter().flat_map(|config| config.identity.values())
    }

    pub fn oauth(&self) -> impl Iterator<Item = &'a Oauth> + use<'a> {
        self.config.into_iter().flat_map(|config| config.oauth.values())
    }

    pub fn messaging(&self) -> impl Iterator<Item = (String, &'a Messaging)> + use<'a> {
        self.identity().filter_map(|profile| {
            Some((format!("identity.{}.messaging", profile.name), profile.messaging.as_ref()?))
        })
    }

    /// The keys, each with its keyset and what to call it.
    pub fn keys(&self) -> impl Iterator<Item = (String, &'a Keyset, &'a Key)> + use<'a> {
        let keysets = self.ring.into_iter().flat_map(|ring| ring.keysets.values());
        keysets.flat_map(|keyset| {
            let about = move |key: &Key| format!("keysets.{}, `{}`", keyset.name, key.kid);
            keyset.keys.iter().map(move |key| (about(key), &**keyset, key))
        })
    }
}

/// Whether a profile of that kind signs with a keyset.
pub fn signs(keyset: &Keyset, kind: Kind) -> bool {
    keyset.used_by.iter().any(|user| user.kind == kind)
}

/// A public key by which a token may be judged.
pub struct Verifier<'a> {
    pub about: String,
    /// `None` where it has none: a private key's or a certificate's file.
    pub kid: Option<&'a str>,
    pub algorithm: Option<&'a str>,
    pub numbers: Option<Numbers>,
}

impl Known<'_> {
    /// Nothing but the time.
    pub fn nothing(now: UnixTime) -> Self {
        Self { now, configured: Configured::default(), given: Given::default(), answers: None }
    }

    /// Every JWK of every document, and of every answer.
    pub fn jwks(&self) -> impl Iterator<Item = (&JwkDocument, &Jwk)> {
        self.documents().flat_map(|document| document.keys.iter().map(move |jwk| (document, jwk)))
    }

    pub fn documents(&self) -> impl Iterator<Item = &JwkDocument> {
        let own = self.answers.iter().flatten().filter_map(|answer| match answer {
            Answer::Jwks(fetched) => fetched.document.as_ref(),
            Answer::Exchange { .. } => None,
        });
        self.given.documents().chain(own)
    }

    /// The answers of addresses, whoever named them.
    pub fn fetched(&self) -> impl Iterator<Item = &Fetched> {
        let own = self.answers.iter().flatten().filter_map(|answer| match answer {
            Answer::Jwks(fetched) => Some(fetched),
            Answer::Exchange { .. } => None,
        });
        self.given.fetched.iter().chain(own)
    }

    /// The tokens that are JWTs at all.
    pub fn jwts(&self) -> impl Iterator<Item = (&UnverifiedToken, &Parts)> {
        self.given.tokens.iter().filter_map(|token| Some((token, token.parts.as_ref().ok()?)))
    }

    /// The keys that may have signed a token: those that were given, or else those of the configuration that the relying
    /// party of such a token has.
    pub fn verifiers(&self, purpose: Purpose, parts: &Parts) -> Vec<Verifier<'_>> {
        if self.given.verifies() {
            self.given_verifiers(purpose)
        } else {
            self.configured_verifiers(purpose, parts)
        }
    }

    fn given_verifiers(&self, purpose: Purpose) -> Vec<Verifier<'_>> {
        // A file that has no id may be a configured key's. Then it is for what that is for, under its id.
        let configured = |numbers: &Numbers| {
            self.configured.keys().find(|(_, _, key)| key.private.public.numbers() == *numbers)
        };
        let nameless = |about: &str, numbers: Option<&Numbers>| Verifier {
            about: about.to_owned(),
            kid: None,
            algorithm: None,
            numbers: numbers.cloned(),
        };
        let jwks = self.given.jwks().map(|jwk| Verifier {
            about: jwk.about.clone(),
            kid: jwk.kid(),
            algorithm: jwk.text("alg"),
            numbers: jwk.numbers(),
        });
        let keys = self.given.private_keys().map(|(about, numbers)| nameless(about, Some(numbers)));
        let public_keys = self.given.public_keys.iter();
        let public_keys = public_keys.map(|(about, numbers)| nameless(about, Some(numbers)));
        let chains = self.given.chains();
        let certificates = chains.map(|(about, chain)| {
            nameless(about, chain.first().and_then(|certificate| certificate.key.as_ref()))
        });
        jwks.chain(keys)
            .chain(public_keys)
            .chain(certificates)
            .filter_map(|mut verifier| {
                let numbers = verifier.numbers.as_ref().filter(|_| verifier.kid.is_none());
                if let Some((_, keyset, key)) = numbers.and_then(configured) {
                    verifier.kid = Some(key.kid.as_str());
                    // An assertion is for its app's key, whatever its id.
                    return (purpose != Purpose::Assertion || signs(keyset, Kind::Oauth)).then_some(verifier);
                }
                Some(verifier)
            })
            .collect()
    }

    /// Salesforce looks for the key of an identity token in the keyset of its issuer, and for that of an assertion in the
    /// app of its consumer key.
    fn configured_verifiers(&self, purpose: Purpose, parts: &Parts) -> Vec<Verifier<'_>> {
        let iss = parts.claim("iss");
        let identity =
            || self.configured.identity().map(|profile| (&profile.keyset, profile.issuer.as_str()));
        let oauth =
            || self.configured.oauth().map(|profile| (&profile.keyset, profile.consumer_key.as_str()));
        let (kind, profiles): (Kind, Vec<_>) = match purpose {
            Purpose::Identity => (Kind::Identity, identity().collect()),
            Purpose::Assertion => (Kind::Oauth, oauth().collect()),
            Purpose::Hs256(_) => return Vec::new(),
        };
        let is_its_issuer = |name: &str| iss == Some(name);
        let of_issuer: Vec<_> =
            profiles.iter().filter(|(_, name)| is_its_issuer(name)).map(|(keyset, _)| *keyset).collect();
        let may_have_signed = |keyset: &Keyset| {
            signs(keyset, kind) && (of_issuer.is_empty() || of_issuer.contains(&&keyset.name))
        };
        self.configured
            .keys()
            .filter(|(_, keyset, key)| may_have_signed(keyset) && key.life.state(self.now) != State::Gone)
            .map(|(about, keyset, key)| Verifier {
                about,
                kid: Some(key.kid.as_str()),
                algorithm: Some(keyset.algorithm.as_str()),
                numbers: Some(key.private.public.numbers()),
            })
            .collect()
    }

    /// When the configuration's key of that id was retired, if it was.
    pub fn retired(&self, kid: &str) -> Option<UnixTime> {
        let keysets = self.configured.ring.into_iter().flat_map(|ring| ring.keysets.values());
        let mut entries = keysets.flat_map(|keyset| &keyset.past).map(|life| &life.entry);
        entries.find(|entry| entry.kid.as_str() == kid)?.retired
    }

    /// The issuers that an identity token may have: the one that was given, or else those of the configuration.
    pub fn issuers(&self) -> Vec<&str> {
        match &self.given.issuer {
            Some(issuer) => vec![issuer.as_str()],
            None => self.configured.identity().map(|profile| profile.issuer.as_str()).collect(),
        }
    }
}
