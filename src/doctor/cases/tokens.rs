//! What is wrong with a JWT.

use super::Case;
use super::Source::{Doc, Field};
use crate::doctor::checks::tokens;

pub(super) const CASES: [Case; 11] = [
    Case {
        id: "token-header",
        title: "A token's header has alg, typ and kid",
        sees: "every chat is a guest's",
        answers: "Salesforce asks: Does your token header include these properties? alg, typ, kid",
        fix: "set them where the token is made, as {\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"…\"}. Salesforce's \
              own generator leaves `typ` out, and its tokens are taken",
        source: Doc,
        online: false,
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
        check: tokens::algorithm,
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
        check: tokens::kid,
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
        check: tokens::signature,
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
        check: tokens::issuer,
    },
    Case {
        id: "token-expiry",
        title: "`exp` is a moment ahead, in seconds",
        sees: "the token is dead on arrival: `expired authorization code`, or the chat asks for another at once",
        answers: "Is `exp` a number of seconds since 1970 that lies ahead?",
        fix: "mint a new one; if it comes expired, set the clock of its maker (NTP)",
        source: Field,
        online: false,
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
        check: tokens::subject,
    },
    Case {
        id: "intercom",
        title: "Intercom's token has its user_id and its secret",
        sees: "Intercom answers 403 or 400",
        answers: "Has the token `user_id`, as text, signed with this platform's Messenger API secret?",
        fix: "`user_id` is text, and the secret that of the platform (web, iOS, Android): Intercom > Settings > \
              Messenger > Security; hand the token in again on every `update`",
        source: Doc,
        online: false,
        check: tokens::intercom,
    },
];
