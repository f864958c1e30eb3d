//! What is wrong with a JWT.

use crate::config::Hs256Kind;
use crate::doctor::case::Source::{Doc, Field, Own};
use crate::doctor::case::{Case, Needs};
use crate::doctor::checks::{assertions, hs256, signatures, tokens};

/// The checks by which a token's signature is verified.
pub const SIGNATURES: &[&str] = &["token-signature", "intercom-secret"];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "token-kind",
        title: "It is clear what a token is for",
        sees: "a token is judged by the rules of another kind",
        answers: "Is it an identity token, an assertion, or Intercom's?",
        fix: "say what it is for: --as identity, --as assertion or --as intercom",
        source: Own,
        online: false,
        needs: Needs::Token,
        check: tokens::kind,
    },
    Case {
        id: "token-header",
        title: "A token's header has alg, typ and kid",
        sees: "every chat is a guest's",
        answers: "Salesforce asks: Does your token header include these properties? alg, typ, kid",
        fix: "set them where the token is made, as {\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"…\"}. Salesforce's \
              own generator leaves `typ` out, and its tokens are taken",
        source: Doc,
        online: false,
        needs: Needs::IdentityToken,
        check: tokens::header,
    },
    Case {
        id: "token-claims",
        title: "A token's body has sub, iss and exp",
        sees: "every chat is a guest's",
        answers: "Salesforce asks: Does your token body include these properties? sub, iss, exp",
        fix: "set them where the token is made, each once; an assertion needs `aud` too (RFC 7523, section 3)",
        source: Doc,
        online: false,
        needs: Needs::SalesforceToken,
        check: tokens::claims,
    },
    Case {
        id: "token-algorithm",
        title: "A token is signed by RS256, as its JWK says",
        sees: "every chat is a guest's, or `invalid assertion`",
        answers: "Is the token signed with the private key (RS256, RS512), not with a shared secret (HS256)?",
        fix: "sign with RS256 and the private RSA key; HS256 is Intercom's. `alg` of header and JWK are the same",
        source: Doc,
        online: false,
        needs: Needs::SalesforceToken,
        check: signatures::algorithm,
    },
    Case {
        id: "token-kid",
        title: "Token and JWK have the same key id",
        sees: "every chat is a guest's",
        answers: "Salesforce asks: Does the uploaded JWK have the same kid value as the kid value in the JWT?",
        fix: "make them the same, byte for byte: upload the JWK with the token's `kid` in Setup > Enhanced Chat User \
              Verification > Keys, and add it to the keyset",
        source: Doc,
        online: false,
        needs: Needs::IdentityToken,
        check: signatures::kid,
    },
    Case {
        id: "token-signature",
        title: "A known key signed the token",
        sees: "every chat is a guest's, or `invalid assertion`",
        answers: "Salesforce asks: Was the JWT created using the same JWKS uploaded and configured with the Messaging \
                  Channel?",
        fix: "find out which key signs where the token is made, and upload the JWK of that one: Setup > Enhanced Chat \
              User Verification > Keys",
        source: Doc,
        online: false,
        needs: Needs::SalesforceToken,
        check: signatures::signature,
    },
    Case {
        id: "issuer",
        title: "The issuer is that of the keyset, byte for byte",
        sees: "every chat is a guest's",
        answers: "Salesforce asks: Does your JWT use the same issuer as the issuer that you specified in Salesforce \
                  Setup?",
        fix: "compare with JSON Web Key Issuer in Setup > Enhanced Chat User Verification > Keysets: the same bytes, \
              upper and lower case too, and best without a slash at the end. Here it is `issuer` in [identity.NAME]",
        source: Doc,
        online: false,
        needs: Needs::IdentityToken,
        check: tokens::issuer,
    },
    Case {
        id: "consumer-key",
        title: "An assertion's issuer is the app's consumer key",
        sees: "`invalid_client_id`, or `invalid assertion`",
        answers: "Is `iss` the consumer key, and `sub` the user name, and not the other way round (Salesforce Help, \
                  \"OAuth 2.0 JWT Bearer Flow\")?",
        fix: "set `iss` to Setup > External Client App Manager > the app > Consumer Key and Secret, and `sub` to the \
              user name",
        source: Doc,
        online: false,
        needs: Needs::Assertion,
        check: assertions::consumer_key,
    },
    Case {
        id: "token-expiry",
        title: "`exp` is a moment ahead, in seconds",
        sees: "the token is dead on arrival: `expired authorization code`, or the chat asks for another at once",
        answers: "Is `exp` a number of seconds since 1970 that lies ahead?",
        fix: "mint a new one; if it comes expired, set the clock of its maker (NTP)",
        source: Field,
        online: false,
        needs: Needs::Expiry,
        check: tokens::expiry,
    },
    Case {
        id: "token-not-yet",
        title: "`nbf` and `iat` have passed",
        sees: "the token isn't taken yet",
        answers: "Is the clock that made it right?",
        fix: "set the clock of the token's maker (NTP); Salesforce is said to allow three minutes",
        source: Field,
        online: false,
        needs: Needs::Token,
        check: tokens::not_yet,
    },
    Case {
        id: "lifetime",
        title: "Tokens outlive wrong clocks, and not the session",
        sees: "the chat ends for some users; or a stolen token is good for long",
        answers: "Is the lifetime between 5 minutes and the channel's session (60 minutes by default)?",
        fix: "`ttl = \"1h\"`; the channel's is \"Authorization Token Expiration Time for Verified Users\" in Setup > \
              Messaging Settings",
        source: Field,
        online: false,
        needs: Needs::IdentityToken,
        check: tokens::lifetime,
    },
    Case {
        id: "subject",
        title: "`sub` names one person",
        sees: "a user gets another user's chat",
        answers: "Does `sub` come from the signed-in session, for each user another, never from the browser?",
        fix: "take the id from the server's session, and mint no token for a visitor who isn't signed in",
        source: Field,
        online: false,
        needs: Needs::IdentityToken,
        check: tokens::subject,
    },
    Case {
        id: "intercom",
        title: "Intercom's token names one user by user_id",
        sees: "Intercom answers 403 or 400",
        answers: "Has the token `user_id`, as text, of a user who is signed in, by HS256?",
        fix: "set `user_id` to the id of the signed-in user, as text, and make no token for a visitor; hand the token in \
              again on every `update`",
        source: Doc,
        online: false,
        needs: Needs::Hs256Token(Hs256Kind::Intercom),
        check: |known| hs256::named(known, Hs256Kind::Intercom),
    },
    Case {
        id: "intercom-secret",
        title: "A Messenger API secret made Intercom's token",
        sees: "Intercom answers 403 or 400",
        answers: "Is it signed with this platform's Messenger API secret?",
        fix: "the secret is that of the platform (web, iOS, Android): Intercom > Settings > Messenger > Security; \
              `secret_file` in [intercom.NAME] holds the same",
        source: Doc,
        online: false,
        needs: Needs::Hs256Token(Hs256Kind::Intercom),
        check: |known| hs256::secret(known, Hs256Kind::Intercom),
    },
];
