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
    /// The accepted values, in words.
    pub(crate) required: String,
    pub(crate) result: Result<(), Refusal>,
}

impl IssuerRules {
    pub(crate) fn new(issuer: &IssuerConfig) -> Self {
        Self { algorithms: issuer.algorithms.clone(), claims: ClaimRules::new(issuer) }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, Environment};

    const NOW: i64 = 1_796_083_200;

    fn rules() -> IssuerRules {
        let text = "[issuers.corp]\nissuer = \"https://corp.example\"\naudience = [\"a\", \"b\"]\nmax_age = \"1h\"\n\
                    jwks_url = \"https://corp.example/jwks\"\n[intercom.fin]\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
                    [callers.shop]\njwt_issuer = \"corp\"\njwt_claims = { sub = [\"shop\"] }\nallow = [\"intercom.fin\"]\n";
        let config = Config::parse("test", text, PathBuf::new(), &Environment::new());
        let Ok(config) = config else { unreachable!("a valid configuration") };
        IssuerRules::new(config.issuers.values().next().expect("an issuer"))
    }

    /// An object with some of these members. Each first value is a good one.
    fn object(members: Vec<(&'static str, Vec<Value>)>) -> impl Strategy<Value = Value> {
        let member = |(name, values): (&'static str, Vec<Value>)| {
            let good = values[0].clone();
            let value = prop_oneof![
                4 => Just(Some(good)),
                1 => prop::sample::select(values).prop_map(Some),
                1 => Just(None),
            ];
            value.prop_map(move |value| value.map(|value| (name.to_owned(), value)))
        };
        let members: Vec<_> = members.into_iter().map(member).collect();
        members.prop_map(|members| Value::Object(members.into_iter().flatten().collect()))
    }

    fn times() -> Vec<Value> {
        let offsets = [-10, 600, 31, 30, 0, -1, -3_600, -3_601];
        let numbers = offsets.into_iter().map(|offset| json!(NOW + offset));
        numbers.chain([json!("soon"), json!(null)]).collect()
    }

    fn expiries() -> Vec<Value> {
        std::iter::once(json!(NOW + 600)).chain(times()).collect()
    }

    proptest! {
        /// The diagnosis begins with the rule by which the service refuses, if there is one.
        #[test]
        fn the_first_refusal_of_an_inspection_is_that_of_the_check(
            header in object(vec![
                ("alg", vec![json!("RS256"), json!("ES256"), json!("HS256"), json!("none"), json!(1)]),
                ("typ", vec![json!("JWT"), json!("application/at+jwt"), json!("logout+jwt"), json!(1)]),
                ("kid", vec![json!("key1"), json!(1)]),
            ]),
            crit in prop::option::weighted(0.1, Just(json!(["exp"]))),
            claims in object(vec![
                ("iss", vec![json!("https://corp.example"), json!("https://corp.example/"), json!(1)]),
                ("aud", vec![json!("a"), json!(["x", "b"]), json!([]), json!(["a", 1]), json!("c")]),
                ("exp", expiries()),
                ("nbf", times()),
                ("iat", times()),
            ]),
        ) {
            let mut header = header;
            if let Some(crit) = crit {
                header["crit"] = crit;
            }
            let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let token = format!("{}.{}.AAAA", encode(&header), encode(&claims));
            let jwt = UnverifiedJwt::parse(&token).expect("a JWT");
            let (rules, now) = (rules(), UnixTime::from_seconds(NOW));
            let inspected: Result<(), Refusal> =
                rules.inspect(&jwt, now).into_iter().try_for_each(|rule| rule.result);
            prop_assert_eq!(inspected, rules.check(&jwt, now).map(|_| ()));
        }
    }
}
