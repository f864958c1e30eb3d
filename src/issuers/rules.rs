//! [`IssuerRules`]: the rules of an issuer for a token, without its keys.

use jsonwebtoken::Algorithm;

use super::claims::ClaimRules;
use super::jwt::UnverifiedJwt;
use super::key_set::KeySet;
use super::refusal::Refusal;
use crate::clock::UnixTime;
use crate::config::IssuerConfig;

/// The rules of an issuer for the header and the claims of its tokens.
pub(crate) struct IssuerRules {
    algorithms: Vec<Algorithm>,
    claims: ClaimRules,
}

/// One rule beside what a token has, for a diagnosis.
pub(crate) struct RuleResult {
    /// The member of the header or of the claims that the rule is about.
    pub(crate) member: &'static str,
    pub(crate) is_in_header: bool,
    /// What the rule requires.
    pub(crate) required: String,
    pub(crate) result: Result<(), Refusal>,
}

impl IssuerRules {
    pub(crate) fn new(issuer: &IssuerConfig) -> Self {
        Self {
            algorithms: issuer.algorithms.iter().map(|algorithm| algorithm.0).collect(),
            claims: ClaimRules::new(issuer),
        }
    }

    /// Whether `iss` of the token is the issuer's.
    pub(crate) fn has_issuer(&self, jwt: &UnverifiedJwt<'_>) -> bool {
        self.claims.has_issuer(jwt)
    }

    /// Checks everything but the signature. Returns the algorithm, and when the token ends.
    ///
    /// # Errors
    /// The first rule that refuses the token.
    pub(crate) fn check(
        &self,
        jwt: &UnverifiedJwt<'_>,
        now: UnixTime,
    ) -> Result<(Algorithm, UnixTime), Refusal> {
        jwt.check_critical()?;
        jwt.check_type()?;
        jwt.check_key_id()?;
        Ok((self.algorithm(jwt)?, self.claims.check(jwt, now)?))
    }

    /// Verifies the signature with `keys`.
    ///
    /// # Errors
    /// The algorithm or the key isn't the issuer's, or the signature is wrong.
    pub(crate) fn check_signature(&self, jwt: &UnverifiedJwt<'_>, keys: &KeySet) -> Result<(), Refusal> {
        keys.verify(jwt, self.algorithm(jwt)?)
    }

    fn algorithm(&self, jwt: &UnverifiedJwt<'_>) -> Result<Algorithm, Refusal> {
        let algorithm = jwt.algorithm()?;
        if self.algorithms.contains(&algorithm) { Ok(algorithm) } else { Err(Refusal::Algorithm) }
    }

    /// Applies each rule of [`check`](Self::check), in its order. Leaves out rules for members that the token doesn't have and
    /// needn't have.
    pub(crate) fn inspect(&self, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Vec<RuleResult> {
        let of_header = |member, required: &str, result| RuleResult {
            member,
            is_in_header: true,
            required: required.to_owned(),
            result,
        };
        let algorithms: Vec<String> =
            self.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
        let header = [
            of_header("crit", "absent", jwt.check_critical()),
            of_header("typ", "absent, JWT, at+jwt or JOSE", jwt.check_type()),
            of_header("kid", "a string", jwt.check_key_id()),
            of_header("alg", &algorithms.join(" or "), self.algorithm(jwt).map(|_| ())),
        ];
        let of_claims = self
            .claims
            .inspect(jwt, now)
            .into_iter()
            .map(|(member, required, result)| RuleResult { member, is_in_header: false, required, result });
        let mut results: Vec<RuleResult> = header.into_iter().chain(of_claims).collect();
        results.retain(|rule| {
            let object = if rule.is_in_header { &jwt.header } else { &jwt.claims };
            rule.result.is_err() || object.member(rule.member).is_some()
        });
        results
    }
}
