//! Catalogue entries (title, symptom, fix) of the checks of JWTs; the functions are in `checks::tokens`,
//! `checks::signatures`, `checks::assertions` and `checks::hs256`.

use crate::config::Hs256Kind;
use crate::doctor::check_spec::EvidenceSource::{Doc, Field, Own};
use crate::doctor::check_spec::{CheckSpec, Requirement};
use crate::doctor::checks::{assertions, hs256, signatures, tokens};

/// The checks by which a token's signature is verified.
pub(crate) const SIGNATURE_CHECKS: &[&str] =
    &["token-signature", "intercom-secret", "hs256-secret", "incoming-signature"];

pub(super) const CHECKS: &[CheckSpec] = &[
    CheckSpec {
        id: "token-kind",
        title: "It is clear what a token is for",
        symptom: "a token is judged by the rules of another kind",
        question: "Is it an identity token, an assertion, Intercom's, one of an [hs256.NAME], or one of another issuer that this \
                   service receives?",
        fix: "say what it is for: --as identity, --as assertion, --as intercom, --as hs256 or --as incoming",
        source: Own,
        online: false,
        requires: Requirement::Token,
        run: tokens::token_kind,
    },
    CheckSpec {
        id: "token-header",
        title: "A token's header has alg, typ and kid",
        symptom: "every chat is unverified",
        question: "Salesforce asks: Does your token header include these properties? alg, typ, kid",
        fix: "set them where the token is made, for example {\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"…\"}. Salesforce's \
              own generator leaves `typ` out, and its tokens are accepted",
        source: Doc,
        online: false,
        requires: Requirement::IdentityToken,
        run: tokens::token_header,
    },
    CheckSpec {
        id: "token-claims",
        title: "A token's body has sub, iss and exp",
        symptom: "every chat is unverified",
        question: "Salesforce asks: Does your token body include these properties? sub, iss, exp",
        fix: "set them where the token is made, each once; an assertion needs `aud` too (RFC 7523, section 3)",
        source: Doc,
        online: false,
        requires: Requirement::SalesforceToken,
        run: tokens::token_claims,
    },
    CheckSpec {
        id: "token-algorithm",
        title: "A token is signed by RS256, as its JWK says",
        symptom: "every chat is unverified, or `invalid assertion`",
        question: "Is the token signed with the private key (RS256, RS512), not with a shared secret (HS256)?",
        fix: "sign with RS256 and the private RSA key; HS256 is for Intercom and [hs256.NAME]. `alg` of header and JWK are the same",
        source: Doc,
        online: false,
        requires: Requirement::SalesforceToken,
        run: signatures::token_algorithm,
    },
    CheckSpec {
        id: "token-kid",
        title: "Token and JWK have the same key id",
        symptom: "every chat is unverified",
        question: "Salesforce asks: Does the uploaded JWK have the same kid value as the kid value in the JWT?",
        fix: "make them the same, byte for byte: upload the JWK with the token's `kid` in Setup > Enhanced Chat User \
              Verification > Keys, and add it to the keyset",
        source: Doc,
        online: false,
        requires: Requirement::IdentityToken,
        run: signatures::token_kid,
    },
    CheckSpec {
        id: "token-signature",
        title: "A known key signed the token",
        symptom: "every chat is unverified, or `invalid assertion`",
        question: "Salesforce asks: Was the JWT created using the same JWKS uploaded and configured with the Messaging \
                  Channel?",
        fix: "find out which key signs where the token is made, and upload the JWK of that one: Setup > Enhanced Chat \
              User Verification > Keys",
        source: Doc,
        online: false,
        requires: Requirement::SalesforceToken,
        run: signatures::token_signature,
    },
    CheckSpec {
        id: "issuer",
        title: "The issuer is the keyset's, byte for byte",
        symptom: "every chat is unverified",
        question: "Salesforce asks: Does your JWT use the same issuer as the issuer that you specified in Salesforce \
                  Setup?",
        fix: "compare with JSON Web Key Issuer in Setup > Enhanced Chat User Verification > Keysets: the same bytes, \
              upper and lower case too, and best without a slash at the end. Here it is `issuer` in [identity.NAME]",
        source: Doc,
        online: false,
        requires: Requirement::IdentityToken,
        run: tokens::issuer,
    },
    CheckSpec {
        id: "consumer-key",
        title: "An assertion's issuer is the app's consumer key",
        symptom: "`invalid_client_id`, or `invalid assertion`",
        question: "Is `iss` the consumer key, and `sub` the user name, and not the other way round (Salesforce Help, \
                  \"OAuth 2.0 JWT Bearer Flow\")?",
        fix: "set `iss` to Setup > External Client App Manager > the app > Consumer Key and Secret, and `sub` to the \
              user name",
        source: Doc,
        online: false,
        requires: Requirement::Assertion,
        run: assertions::consumer_key,
    },
    CheckSpec {
        id: "token-expiry",
        title: "`exp` is a moment ahead, in seconds",
        symptom: "the token has expired on arrival: `expired authorization code`, or the chat asks for another at once",
        question: "Is `exp` a number of seconds since 1970 that lies ahead?",
        fix: "mint a new one; if it comes expired, set the clock of its maker (NTP)",
        source: Field,
        online: false,
        requires: Requirement::Expiry,
        run: tokens::token_expiry,
    },
    CheckSpec {
        id: "token-not-yet",
        title: "`nbf` and `iat` have passed",
        symptom: "the token isn't accepted yet",
        question: "Is the clock that made it right?",
        fix: "set the clock of the token's maker (NTP); Salesforce is said to allow three minutes",
        source: Field,
        online: false,
        requires: Requirement::Token,
        run: tokens::token_not_yet,
    },
    CheckSpec {
        id: "lifetime",
        title: "Tokens outlive wrong clocks, and not the session",
        symptom: "the chat ends for some users; or a stolen token is good for long",
        question: "Is the lifetime between 5 minutes and the channel's session (60 minutes by default)?",
        fix: "`ttl = \"1h\"`; the channel's is \"Authorization Token Expiration Time for Verified Users\" in Setup > \
              Messaging Settings",
        source: Field,
        online: false,
        requires: Requirement::IdentityToken,
        run: tokens::lifetime,
    },
    CheckSpec {
        id: "subject",
        title: "`sub` names one person",
        symptom: "a user gets another user's chat",
        question: "Does `sub` come from the signed-in session, for each user another, never from the browser?",
        fix: "take the id from the server's session, and mint no token for a visitor who isn't signed in",
        source: Field,
        online: false,
        requires: Requirement::IdentityToken,
        run: tokens::subject,
    },
    CheckSpec {
        id: "intercom",
        title: "Intercom's token names one user by user_id",
        symptom: "Intercom answers 403 or 400",
        question: "Is `user_id` the id of a signed-in user, as text, and is the token signed with HS256?",
        fix: "set `user_id` to the id of the signed-in user, as text, and make no token for a visitor; hand the token in \
              again on every `update`",
        source: Doc,
        online: false,
        requires: Requirement::Hs256Token(Hs256Kind::Intercom),
        run: |input| hs256::names_user(input, Hs256Kind::Intercom),
    },
    CheckSpec {
        id: "intercom-secret",
        title: "A Messenger API secret made Intercom's token",
        symptom: "Intercom answers 403 or 400",
        question: "Is it signed with this platform's Messenger API secret?",
        fix: "use the secret of the platform (web, iOS, Android): Intercom > Settings > Messenger > Security; \
              `secret_file` in [intercom.NAME] holds the same",
        source: Doc,
        online: false,
        requires: Requirement::Hs256Token(Hs256Kind::Intercom),
        run: |input| hs256::signed_with_secret(input, Hs256Kind::Intercom),
    },
    CheckSpec {
        id: "hs256",
        title: "A token of an [hs256.NAME] profile names one user by its subject_claim",
        symptom: "the chat product refuses the token, or shows another user",
        question: "Has the token the profile's `subject_claim`, with the id of a signed-in user as text, and is it signed with HS256?",
        fix: "set the claim to the id of the signed-in user, as text, and make no token for a visitor; compare its name with \
              `subject_claim` in [hs256.NAME]",
        source: Own,
        online: false,
        requires: Requirement::Hs256Token(Hs256Kind::General),
        run: |input| hs256::names_user(input, Hs256Kind::General),
    },
    CheckSpec {
        id: "hs256-secret",
        title: "The secret of an [hs256.NAME] profile made the token",
        symptom: "the chat product refuses the token",
        question: "Is it signed with the secret of an [hs256.NAME], and is its `kid` the profile's?",
        fix: "use the secret and the `kid` that the relying party shows; `secret_file` and `kid` in [hs256.NAME] hold the same",
        source: Own,
        online: false,
        requires: Requirement::Hs256Token(Hs256Kind::General),
        run: |input| hs256::signed_with_secret(input, Hs256Kind::General),
    },
];
