//! The subject of a request: named by the caller, or proven by a `subject_token`, the JWT of an identity provider.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::clock::{Clock, UnixTime};
use crate::config::{Name, PolicyMode, SubjectTokenConfig};
use crate::issuers::{Issuers, Refusal, TrustedIssuer, UnverifiedJwt, VerifyError};
use crate::tokens::{InvalidField, Lifetime, Subject};

/// The name of the field.
const FIELD: &str = "subject_token";

/// The rule of a caller for subject tokens.
pub(super) struct SubjectTokenRule {
    issuer: Arc<TrustedIssuer>,
    /// The claim that names the subject.
    claim: String,
    is_required: bool,
}

/// The fields of a request that determine its subject.
pub(super) struct SubjectFields<'a> {
    /// The name of the field of `named`: `sub` or `user_id`.
    pub(super) field: &'static str,
    pub(super) named: Option<Subject>,
    pub(super) token: Option<&'a SecretString>,
}

/// The subject of a request, and how it was found.
pub(crate) struct RequestedSubject {
    pub(crate) subject: Subject,
    /// The token that proves it.
    pub(crate) proof: Option<SubjectProof>,
    /// Why `subject_token` would refuse the request, if only `policy = "audit"` allows it.
    pub(crate) audit_violation: Option<InvalidField>,
}

/// The proof that a request is for its subject.
pub(crate) struct SubjectProof {
    pub(crate) issuer: Name,
    /// When the subject token ends. The minted token must not end later.
    pub(crate) valid_until: UnixTime,
}

/// Why a request has no subject.
#[derive(Debug)]
pub(crate) enum SubjectError {
    Invalid(InvalidField),
    /// The keys of the issuer of subject tokens aren't available.
    KeysUnavailable {
        retry_after: Duration,
    },
}

/// Why a subject token names no subject. The messages continue a sentence about the token, and contain no value of it.
#[derive(Debug, Error)]
pub(crate) enum InvalidSubject {
    #[error(transparent)]
    NoClaim(Refusal),
    #[error("names a subject that {0}")]
    Unusable(String),
}

/// The subject that a token names. `claim` is the value of its `subject_claim`, if that is a string.
///
/// # Errors
/// The token has no such claim, or the subject isn't allowed.
pub(crate) fn parse_subject(claim: Option<&str>) -> Result<Subject, InvalidSubject> {
    let claim = claim.ok_or(InvalidSubject::NoClaim(Refusal::SubjectClaim))?;
    Subject::parse(FIELD, claim.to_owned())
        .map_err(|invalid_field| InvalidSubject::Unusable(invalid_field.message))
}

impl RequestedSubject {
    /// Shortens the lifetime of a token that is minted at `now`, so that it doesn't outlive the proof of its subject.
    ///
    /// # Errors
    /// The proof has expired.
    pub(crate) fn limit_lifetime(&self, lifetime: Lifetime, now: UnixTime) -> Result<Lifetime, InvalidField> {
        let Some(proof) = &self.proof else { return Ok(lifetime) };
        let limited = lifetime.ending_by(proof.valid_until, now);
        limited.map_err(|_| InvalidField::new(FIELD, Refusal::Expired.to_string()))
    }

    /// The name of the issuer that proves the subject.
    pub(crate) fn proven_by(&self) -> Option<&Name> {
        self.proof.as_ref().map(|proof| &proof.issuer)
    }
}

impl From<InvalidField> for SubjectError {
    fn from(invalid_field: InvalidField) -> Self {
        Self::Invalid(invalid_field)
    }
}

impl SubjectTokenRule {
    /// # Panics
    /// If `issuers` doesn't belong to the same configuration.
    pub(super) fn new(config: &SubjectTokenConfig, issuers: &Issuers) -> Self {
        let issuer = issuers.get(&config.issuer);
        let issuer = issuer.expect("a validated configuration has each issuer that it names").clone();
        Self { issuer, claim: config.claim.clone(), is_required: config.is_required }
    }

    /// The subject of a request, proven or named.
    ///
    /// # Errors
    /// There is no subject, or no valid token where one is needed. With `policy = "audit"`, a request that names its subject is
    /// accepted in spite of that.
    pub(super) async fn resolve_subject(
        &self,
        request: SubjectFields<'_>,
        policy: PolicyMode,
        clock: &dyn Clock,
    ) -> Result<RequestedSubject, SubjectError> {
        if request.token.is_none() && !self.is_required {
            return request.named_subject(None);
        }
        let violation = match self.proven_subject(&request, clock).await {
            Ok(proven) => return Ok(proven),
            // While a backend is changed over, what worked before goes on.
            Err(error) if policy != PolicyMode::Audit || request.named.is_none() => return Err(error),
            Err(SubjectError::Invalid(violation)) => violation,
            Err(SubjectError::KeysUnavailable { .. }) => {
                InvalidField::new(FIELD, "can't be verified: its issuer's keys aren't available")
            }
        };
        request.named_subject(Some(violation))
    }

    async fn proven_subject(
        &self,
        request: &SubjectFields<'_>,
        clock: &dyn Clock,
    ) -> Result<RequestedSubject, SubjectError> {
        let Some(token) = request.token else {
            let message = "is missing: this caller must send the user's token from its identity provider";
            return Err(InvalidField::new(FIELD, message).into());
        };
        let (subject, proof) = self.verify(token.expose_secret(), clock).await?;
        if request.named.as_ref().is_some_and(|named| *named != subject) {
            let message = "isn't the subject of `subject_token`: leave it out, or send the same";
            return Err(InvalidField::new(request.field, message).into());
        }
        Ok(RequestedSubject { subject, proof: Some(proof), audit_violation: None })
    }

    /// Verifies a subject token.
    async fn verify(&self, token: &str, clock: &dyn Clock) -> Result<(Subject, SubjectProof), SubjectError> {
        let refused = |refusal: Refusal| InvalidField::new(FIELD, refusal.to_string());
        let jwt = UnverifiedJwt::parse(token).map_err(|refusal| {
            self.issuer.count_refusal(refusal.rule());
            refused(refusal)
        })?;
        let claims = self.issuer.verify(&jwt, clock).await.map_err(|error| match error {
            VerifyError::Refused(refusal) => SubjectError::Invalid(refused(refusal)),
            VerifyError::KeysUnavailable { retry_after } => SubjectError::KeysUnavailable { retry_after },
        })?;
        let subject = parse_subject(claims.text(&self.claim)).map_err(|error| {
            self.issuer.count_refusal(Refusal::SubjectClaim.rule());
            InvalidField::new(FIELD, error.to_string())
        })?;
        let proof = SubjectProof { issuer: self.issuer.name.clone(), valid_until: claims.valid_until };
        Ok((subject, proof))
    }
}

impl SubjectFields<'_> {
    /// The subject that the request names.
    fn named_subject(self, audit_violation: Option<InvalidField>) -> Result<RequestedSubject, SubjectError> {
        let subject = self.named.ok_or_else(|| InvalidField::new(self.field, "is missing"))?;
        Ok(RequestedSubject { subject, proof: None, audit_violation })
    }

    /// The subject of a caller without a rule for subject tokens.
    ///
    /// # Errors
    /// There is no subject, or a subject token.
    pub(super) fn named_only(self) -> Result<RequestedSubject, SubjectError> {
        if self.token.is_some() {
            let message = "isn't accepted from this caller: leave it out, or set `subject_token` and `subject_issuer` in the \
                           caller's configuration";
            return Err(InvalidField::new(FIELD, message).into());
        }
        self.named_subject(None)
    }
}
