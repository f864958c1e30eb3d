//! The input of the checks. Supplied artifacts and the configuration are separate types, so that a check can't mix them up
//! by accident.

use std::collections::BTreeMap;
use std::time::Duration;

use super::artifact::{Artifact, GivenKey};
use super::certificate::{CertificateInfo, GivenCertificate};
use super::jwk::{JwkDocument, ParsedJwk};
use super::probe::{FetchedJwks, ProbeResult};
use super::token::{JwtParts, UnverifiedToken};
use crate::clock::UnixTime;
use crate::config::{
    Config, Hs256Config, Hs256Kind, IdentityConfig, IssuerConfig, MessagingConfig, Name, OauthConfig,
    Problem, ProfileKind,
};
use crate::issuers::{FetchError, FetchedKeys, LoadedIssuerKeys};
use crate::keys::{KeyRing, KeyState, Keyset, KeysetKey, PublicNumbers};
use crate::stores::StoreError;

/// The kind of a token: what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Identity,
    Assertion,
    Hs256(Hs256Kind),
    /// A JWT of another issuer that this service receives.
    Incoming,
}

/// Everything that the checks examine.
pub struct CheckInput<'a> {
    pub now: UnixTime,
    pub configured: ConfigView<'a>,
    pub given: GivenArtifacts,
    /// `None` without `--online`.
    pub probe_results: Option<Vec<ProbeResult>>,
}

/// The login to a store of keys.
pub struct StoreLogin {
    pub(crate) store: Name,
    /// How long it lasts; `None` if it doesn't end by itself.
    pub(crate) remaining: Result<Option<Duration>, StoreError>,
}

/// The loaded configuration and key ring, or the problems that kept them from loading.
#[derive(Default)]
pub struct ConfigView<'a> {
    pub config: Option<&'a Config>,
    pub ring: Option<&'a KeyRing>,
    /// The keys of issuers, or how they are fetched. `None` if the configuration doesn't load.
    pub issuer_keys: Option<&'a BTreeMap<Name, LoadedIssuerKeys>>,
    /// How long the login to each store of keys lasts. Empty unless it was asked for.
    pub store_logins: &'a [StoreLogin],
    /// Why the configuration or the key ring failed to load.
    pub problems: &'a [Problem],
    /// Warnings about a configuration that loads.
    pub warnings: Vec<&'a Problem>,
}

/// Artifacts that the user supplied. The keys among them verify a token; without any, the configured keys do.
#[derive(Default)]
pub struct GivenArtifacts {
    /// The issuer in Salesforce Setup (`--issuer`).
    pub issuer: Option<String>,
    /// The kind of the tokens (`--as`).
    pub purpose: Option<Purpose>,
    pub keys: Vec<GivenKey>,
    /// Files with a public key alone: the label of the file, and the key.
    pub public_keys: Vec<(String, PublicNumbers)>,
    pub certificates: Vec<GivenCertificate>,
    pub jwks: Vec<JwkDocument>,
    /// The responses of the URLs of `--jwks`, or why there are none.
    pub fetched: Vec<FetchedJwks>,
    pub tokens: Vec<UnverifiedToken>,
    /// Whether the supplied files only verify a token: checks for uploads, and the comparison of keys with configured ones, are
    /// left out.
    pub verify_only: bool,
}

impl GivenArtifacts {
    pub fn add(&mut self, artifact: Artifact) {
        match artifact {
            Artifact::Key(key) => self.keys.push(key),
            Artifact::PublicKey { about, numbers } => self.public_keys.push((about, numbers)),
            Artifact::Certificate(certificate) => self.certificates.push(certificate),
            Artifact::Jwk(document) => self.jwks.push(document),
            Artifact::Token(token) => self.tokens.push(token),
        }
    }

    /// The supplied documents and the documents fetched from `--jwks` URLs.
    pub(crate) fn jwk_documents(&self) -> impl Iterator<Item = &JwkDocument> {
        self.jwks.iter().chain(self.fetched.iter().filter_map(|fetched| fetched.document.as_ref()))
    }

    pub fn jwks(&self) -> impl Iterator<Item = &ParsedJwk> {
        self.jwk_documents().flat_map(|document| &document.keys)
    }

    /// The private keys that could be parsed, each with its label.
    pub(crate) fn private_keys(&self) -> impl Iterator<Item = (&str, &PublicNumbers)> {
        self.keys.iter().filter_map(|key| Some((key.about.as_str(), key.parsed.as_ref().ok()?)))
    }

    /// The certificate chains that could be parsed, each with its label.
    pub(crate) fn chains(&self) -> impl Iterator<Item = (&str, &[CertificateInfo])> {
        self.certificates
            .iter()
            .filter_map(|given| Some((given.about.as_str(), given.parsed.as_deref().ok()?)))
    }

    /// The labels of all artifacts that matter for `token`, and its own.
    ///
    /// A JWK Set may hold keys for other tokens and other uses (RFC 7517, section 5). If one key of a set made the signature
    /// and its id is unique in the set, the other keys are left out. The label of a set from a file is left out too.
    pub(crate) fn labels_relevant_to<'a>(&'a self, token: &'a UnverifiedToken) -> Vec<&'a str> {
        let parts = token.parts.as_ref().ok();
        let signed = |jwk: &&ParsedJwk| {
            parts.is_some_and(|parts| jwk.numbers().is_some_and(|numbers| parts.is_signed_by(&numbers)))
        };
        let of_documents = self.jwk_documents().flat_map(|document| {
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

    /// Whether any artifact that can verify a token was supplied, readable or not.
    pub(crate) const fn has_verification_keys(&self) -> bool {
        !(self.keys.is_empty()
            && self.public_keys.is_empty()
            && self.certificates.is_empty()
            && self.jwks.is_empty()
            && self.fetched.is_empty())
    }
}

impl<'a> ConfigView<'a> {
    pub(crate) fn hs256(
        &self,
        kind: Hs256Kind,
    ) -> impl Iterator<Item = (&'a Name, &'a Hs256Config)> + use<'a> {
        self.config.into_iter().flat_map(move |config| &config.hs256[&kind])
    }

    pub(crate) fn identity(&self) -> impl Iterator<Item = &'a IdentityConfig> + use<'a> {
        self.config.into_iter().flat_map(|config| config.identity.values())
    }

    pub(crate) fn oauth(&self) -> impl Iterator<Item = &'a OauthConfig> + use<'a> {
        self.config.into_iter().flat_map(|config| config.oauth.values())
    }

    pub(crate) fn issuers(&self) -> impl Iterator<Item = &'a IssuerConfig> + use<'a> {
        self.config.into_iter().flat_map(|config| config.issuers.values())
    }

    pub(crate) fn messaging(&self) -> impl Iterator<Item = (String, &'a MessagingConfig)> + use<'a> {
        self.identity().filter_map(|profile| {
            Some((format!("identity.{}.messaging", profile.name), profile.messaging.as_ref()?))
        })
    }

    /// The keys of all keysets, each with its label and its keyset.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (String, &'a Keyset, &'a KeysetKey)> + use<'a> {
        let keysets = self.ring.into_iter().flat_map(|ring| ring.keysets.values());
        keysets.flat_map(|keyset| {
            let about = move |key: &KeysetKey| format!("keysets.{}, `{}`", keyset.name, key.kid);
            keyset.keys.iter().map(move |key| (about(key), &**keyset, key))
        })
    }
}

/// Whether a profile of `kind` signs with `keyset`.
pub(crate) fn is_used_by(keyset: &Keyset, kind: ProfileKind) -> bool {
    keyset.used_by.iter().any(|user| user.kind == kind)
}

/// A public key that may verify a token.
pub(crate) struct VerificationKey<'a> {
    pub(crate) about: String,
    /// The `kid` of a JWK, or the id of a configured key: this one, or the one that the supplied file holds.
    pub(crate) kid: Option<&'a str>,
    pub(crate) algorithm: Option<&'a str>,
    pub(crate) numbers: Option<PublicNumbers>,
}

impl CheckInput<'_> {
    /// Every JWK of every document, supplied or probed.
    pub(crate) fn jwks(&self) -> impl Iterator<Item = (&JwkDocument, &ParsedJwk)> {
        self.jwk_documents().flat_map(|document| document.keys.iter().map(move |jwk| (document, jwk)))
    }

    pub(crate) fn jwk_documents(&self) -> impl Iterator<Item = &JwkDocument> {
        let own = self.probe_results.iter().flatten().filter_map(|answer| match answer {
            ProbeResult::Jwks(fetched) => fetched.document.as_ref(),
            ProbeResult::Exchange { .. } | ProbeResult::IssuerKeys(_) => None,
        });
        self.given.jwk_documents().chain(own)
    }

    /// Every fetched JWKS: from `--jwks` URLs and from probes.
    pub(crate) fn fetched(&self) -> impl Iterator<Item = &FetchedJwks> {
        let own = self.probe_results.iter().flatten().filter_map(|answer| match answer {
            ProbeResult::Jwks(fetched) => Some(fetched),
            ProbeResult::Exchange { .. } | ProbeResult::IssuerKeys(_) => None,
        });
        self.given.fetched.iter().chain(own)
    }

    /// The result of the fetch of an issuer's keys; `None` if they weren't fetched.
    pub(crate) fn fetched_issuer_keys(&self, name: &Name) -> Option<&Result<FetchedKeys, FetchError>> {
        self.probe_results.iter().flatten().find_map(|answer| match answer {
            ProbeResult::IssuerKeys(keys) if keys.issuer == *name => Some(&keys.fetched),
            _ => None,
        })
    }

    /// The supplied tokens that parse as JWTs.
    pub(crate) fn jwts(&self) -> impl Iterator<Item = (&UnverifiedToken, &JwtParts)> {
        self.given.tokens.iter().filter_map(|token| Some((token, token.parts.as_ref().ok()?)))
    }

    /// The public keys that may verify a token: the supplied keys, or else the configured keys that the relying party of such a
    /// token has.
    pub(crate) fn verification_keys(&self, purpose: Purpose, parts: &JwtParts) -> Vec<VerificationKey<'_>> {
        if self.given.has_verification_keys() {
            self.given_verification_keys(purpose)
        } else {
            self.configured_verification_keys(purpose, parts)
        }
    }

    fn given_verification_keys(&self, purpose: Purpose) -> Vec<VerificationKey<'_>> {
        // A file without a key id may hold a configured key. Then it gets the key id of that key, and verifies what that key signs.
        let configured = |numbers: &PublicNumbers| {
            self.configured.keys().find(|(_, _, key)| key.public().numbers() == *numbers)
        };
        let nameless = |about: &str, numbers: Option<&PublicNumbers>| VerificationKey {
            about: about.to_owned(),
            kid: None,
            algorithm: None,
            numbers: numbers.cloned(),
        };
        let jwks = self.given.jwks().map(|jwk| VerificationKey {
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
            .filter_map(|mut verification_key| {
                let numbers = verification_key.numbers.as_ref().filter(|_| verification_key.kid.is_none());
                if let Some((_, keyset, key)) = numbers.and_then(configured) {
                    verification_key.kid = Some(key.kid.as_str());
                    // A configured key verifies an assertion only if an [oauth] profile uses its keyset.
                    return (purpose != Purpose::Assertion || is_used_by(keyset, ProfileKind::Oauth))
                        .then_some(verification_key);
                }
                Some(verification_key)
            })
            .collect()
    }

    /// Salesforce looks up the key of an identity token in the keyset of its issuer. It looks up the key of an assertion in the
    /// app of its consumer key. If no profile has the token's `iss`, the keys of all profiles of its kind may verify it.
    fn configured_verification_keys(&self, purpose: Purpose, parts: &JwtParts) -> Vec<VerificationKey<'_>> {
        let iss = parts.claim("iss");
        let identity =
            || self.configured.identity().map(|profile| (&profile.keyset, profile.issuer.as_str()));
        let oauth =
            || self.configured.oauth().map(|profile| (&profile.keyset, profile.consumer_key.as_str()));
        let (kind, profiles): (ProfileKind, Vec<_>) = match purpose {
            Purpose::Identity => (ProfileKind::Identity, identity().collect()),
            Purpose::Assertion => (ProfileKind::Oauth, oauth().collect()),
            Purpose::Hs256(_) | Purpose::Incoming => return Vec::new(),
        };
        let is_its_issuer = |name: &str| iss == Some(name);
        let of_issuer: Vec<_> =
            profiles.iter().filter(|(_, name)| is_its_issuer(name)).map(|(keyset, _)| *keyset).collect();
        let may_have_signed = |keyset: &Keyset| {
            is_used_by(keyset, kind) && (of_issuer.is_empty() || of_issuer.contains(&&keyset.name))
        };
        self.configured
            .keys()
            .filter(|(_, keyset, key)| {
                may_have_signed(keyset) && key.validity.state(self.now) != KeyState::Gone
            })
            .map(|(about, keyset, key)| VerificationKey {
                about,
                kid: Some(key.kid.as_str()),
                algorithm: Some(keyset.algorithm.as_str()),
                numbers: Some(key.public().numbers()),
            })
            .collect()
    }

    /// When the configured key with this id was retired, if it was.
    pub(crate) fn retired_at(&self, kid: &str) -> Option<UnixTime> {
        let keysets = self.configured.ring.into_iter().flat_map(|ring| ring.keysets.values());
        let mut entries = keysets.flat_map(|keyset| &keyset.gone).map(|life| &life.entry);
        entries.find(|entry| entry.kid.as_str() == kid)?.retired
    }

    /// The issuers that an identity token may have: the issuer from Setup if it was given, or else the configured issuers.
    pub(crate) fn expected_issuers(&self) -> Vec<&str> {
        match &self.given.issuer {
            Some(issuer) => vec![issuer.as_str()],
            None => self.configured.identity().map(|profile| profile.issuer.as_str()).collect(),
        }
    }
}
