//! The catalogue: every fault that the doctor knows, in the order in which a person would look.

use serde::Serialize;

use super::checks::{keys, online, profiles, published, tokens};
use super::{Known, Observation};

/// One question, answered by one check.
#[derive(Serialize)]
pub struct Case {
    /// Stable: programs may look for it.
    pub id: &'static str,
    /// What holds where all is well.
    pub title: &'static str,
    /// What people see of the fault.
    pub sees: &'static str,
    /// The question of Salesforce's page that it answers, or the report that it explains.
    pub answers: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    pub source: Source,
    /// Whether it needs the answer of a request.
    pub online: bool,
    #[serde(skip)]
    pub check: fn(&Known<'_>) -> Vec<Observation>,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Salesforce's or Intercom's documentation.
    Doc,
    /// Reports of people who met it.
    Field,
    /// A standard.
    Rfc,
    /// tokenmint's own rule.
    Own,
}

use Source::{Doc, Field, Own, Rfc};

const KEY_UPLOAD: &str = "Salesforce asks: Does your key follow the JWK structure?";

pub static CASES: [Case; 50] = [
    Case {
        id: "configuration",
        title: "The configuration loads",
        sees: "tokenmint doesn't start",
        answers: "Would `tokenmint serve` start?",
        fix: "mend the line that the message names; `tokenmint check` shows the same",
        source: Own,
        online: false,
        check: profiles::configuration,
    },
    Case {
        id: "configuration-warnings",
        title: "The configuration holds nothing odd",
        sees: "it runs, but not as meant",
        answers: "Is something allowed, but probably not meant?",
        fix: "mend what the message names, or leave it, knowingly",
        source: Own,
        online: false,
        check: profiles::warnings,
    },
    Case {
        id: "text",
        title: "A JWK or JWT is that and nothing else",
        sees: "the key fails to upload, or the token isn't taken",
        answers: "Was it copied whole and bare? Salesforce's utility prints `JWK : ` and `JWT : ` before its output",
        fix: "copy the JSON from its first `{` to its last `}`, or the token alone",
        source: Doc,
        online: false,
        check: published::text,
    },
    Case {
        id: "key-form",
        title: "A private key is readable",
        sees: "`invalid assertion`, `ASN.1 parsing error`, or the mint doesn't start",
        answers: "Is it the private key, as PEM, with real line breaks?",
        fix: "give the private key as PEM: PKCS#8 (BEGIN PRIVATE KEY) or PKCS#1 (BEGIN RSA PRIVATE KEY). \
              Salesforce's own utility reads PKCS#8 only: `openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW`",
        source: Field,
        online: false,
        check: keys::form,
    },
    Case {
        id: "key-strength",
        title: "A key is RSA of 2048 bits or more",
        sees: "the key fails to upload, or no token is taken",
        answers: "Is it an RSA key that RS256 allows (RFC 7518, section 3.3)?",
        fix: "make another: `tokenmint keys new KID`, or `openssl genpkey -algorithm RSA -pkeyopt \
              rsa_keygen_bits:2048`, and upload its JWK and certificate",
        source: Doc,
        online: false,
        check: keys::strength,
    },
    Case {
        id: "key-file-mode",
        title: "Only its owner can read a private key",
        sees: "nothing, until somebody signs in as your customers",
        answers: "Who else can read the key?",
        fix: "chmod 600; if others may have read it, make another key",
        source: Own,
        online: false,
        check: keys::file_mode,
    },
    Case {
        id: "signing-key",
        title: "Each keyset has a key that signs now",
        sees: "503 `temporarily_unavailable` for every token",
        answers: "Does a key sign now?",
        fix: "in keyset.toml give one key a `sign_from` that has passed; `tokenmint keys list` shows all dates",
        source: Own,
        online: false,
        check: keys::schedule,
    },
    Case {
        id: "key-pair",
        title: "Private key, JWK and certificate are one pair",
        sees: "every chat is a guest's, or `invalid assertion`",
        answers: "Salesforce asks: Is the JWKS for the private key used to sign the JWT?",
        fix: "make JWK and certificate from the key that signs (`tokenmint jwk KID`) and upload them: Setup > \
              Enhanced Chat User Verification > Keys > New Key; for OAuth Setup > External Client App Manager > \
              the app > OAuth settings",
        source: Doc,
        online: false,
        check: keys::pair,
    },
    Case {
        id: "separate-keys",
        title: "Identity tokens and OAuth assertions have keys of their own",
        sees: "nothing, until one leak opens both doors",
        answers: "Are different kinds of JWT signed by different keys (RFC 8725, section 3.12)?",
        fix: "a keyset for each: `tokenmint keys new KID --directory keys/crm`, [keysets.crm], and `keyset = \"crm\"` \
              in the [oauth] profiles; upload the new certificate to the app",
        source: Rfc,
        online: false,
        check: keys::separate,
    },
    Case {
        id: "certificate-form",
        title: "A certificate is one",
        sees: "the certificate fails to upload",
        answers: "Salesforce asks: Is your certificate valid? (`keytool -printcert` must print it)",
        fix: "make it from the key: `openssl req -x509 -new -key KEY -days 1095 -subj /CN=NAME -out CRT`, or leave \
              it out and tokenmint derives one",
        source: Doc,
        online: false,
        check: keys::certificate_form,
    },
    Case {
        id: "certificate-dates",
        title: "A certificate is valid, for ten days at least",
        sees: "the key fails to upload; later, every chat is a guest's",
        answers: "Salesforce asks: Has the certificate expired? The certificate must be valid for at least 10 days",
        fix: "make a new certificate for the same key (remove KID.crt and tokenmint derives one), and upload the JWK \
              anew: Setup > Enhanced Chat User Verification > Keys",
        source: Doc,
        online: false,
        check: keys::certificate_dates,
    },
    Case {
        id: "app-certificate",
        title: "A certificate fits an app's upload",
        sees: "the app refuses the certificate",
        answers: "Is it at most 4 KB, and made for years, not for ever?",
        fix: "make it from a key of 2048 bits and without a chain: `tokenmint keys new`",
        source: Field,
        online: false,
        check: keys::app_certificate,
    },
    Case {
        id: "jwk-single",
        title: "One JWK is uploaded at a time",
        sees: "the key fails to upload",
        answers: "Salesforce asks: Did you upload each key individually? You can't upload the keys in one single JSON \
                  array",
        fix: "upload the output of `tokenmint jwk KID`, once for each key. The set (`tokenmint jwks`) is what an \
              Endpoint URL shows; to check one, use --jwks",
        source: Doc,
        online: false,
        check: published::single,
    },
    Case {
        id: "jwk-members",
        title: "A JWK has what Salesforce needs",
        sees: "the key fails to upload",
        answers: "Salesforce asks: Does your key include these required properties: kty, kid, alg, x5c?",
        fix: "take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        check: published::members,
    },
    Case {
        id: "jwk-numbers",
        title: "`n` and `e` are base64url",
        sees: "no signature verifies: every chat is a guest's",
        answers: "Salesforce asks: Are the `n` (modulus) and `e` (exponent) properties of the key Base64 URL encoded?",
        fix: "base64url without padding and without a leading zero octet (RFC 7518, section 6.3.1.1): `-` and `_` in \
              place of `+` and `/`, no `=`; or take the output of `tokenmint jwk KID`",
        source: Doc,
        online: false,
        check: published::numbers,
    },
    Case {
        id: "jwk-x5c",
        title: "A JWK carries its certificate",
        sees: "the key uploads, and every chat is a guest's, with no error",
        answers: "Salesforce asks: Does your key include these required properties: … x5c?",
        fix: "make a self-signed certificate from the same key and add it; `tokenmint jwk KID` does both",
        source: Doc,
        online: false,
        check: published::x5c_missing,
    },
    Case {
        id: "jwk-x5c-form",
        title: "`x5c` is plain base64 of a certificate",
        sees: "the key fails to upload, or every chat is a guest's",
        answers: "Salesforce asks: Is the string in the x5c parameter base64-encoded?",
        fix: "an array with the certificate's DER in plain base64 (RFC 7517, section 4.7): the PEM file without its \
              first and last line and without line breaks",
        source: Doc,
        online: false,
        check: published::x5c_form,
    },
    Case {
        id: "jwk-placeholders",
        title: "A JWK has no members of other kinds of key",
        sees: "a strict parser or a scanner says that a private key is published",
        answers: KEY_UPLOAD,
        fix: "Setup takes it, and nothing has leaked. For anybody else leave out `y`, `crv`, `d` and `k`: \
              `tokenmint jwk KID`",
        source: Doc,
        online: false,
        check: published::placeholders,
    },
    Case {
        id: "jwk-private",
        title: "A JWK holds no private key",
        sees: "nothing, until somebody signs in as your customers",
        answers: "Salesforce asks: Are you generating the keys using the public certificate? Don't use the private \
                  certificate",
        fix: "treat the key as leaked: make another (`tokenmint keys new`), upload its public JWK (`tokenmint jwk \
              KID`), and delete this one in Setup > Enhanced Chat User Verification > Keys",
        source: Doc,
        online: false,
        check: published::private,
    },
    Case {
        id: "jwk-distinct",
        title: "Each key of a set has an id of its own",
        sees: "some tokens verify and some don't",
        answers: "Do different keys have different `kid`s (RFC 7517, section 4.5)?",
        fix: "give one of the keys another id, in its JWK and in the tokens that it signs",
        source: Rfc,
        online: false,
        check: published::distinct,
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
    Case {
        id: "scrt-url",
        title: "`scrt_url` is the messaging host",
        sees: "404, HTML, or no answer when a token is exchanged",
        answers: "Is it https://….my.salesforce-scrt.com, not .my.salesforce.com and not .my.site.com?",
        fix: "copy it from Setup > Embedded Service Deployments > the deployment > Install Code Snippet (`scrt2URL`)",
        source: Doc,
        online: false,
        check: profiles::scrt_url,
    },
    Case {
        id: "org-id",
        title: "`org_id` is an org's id",
        sees: "400 when a token is exchanged",
        answers: "Has it 15 or 18 characters, beginning with 00D?",
        fix: "copy Organization ID from Setup > Company Information",
        source: Doc,
        online: false,
        check: profiles::org_id,
    },
    Case {
        id: "deployment",
        title: "`es_developer_name` is a published deployment's API name",
        sees: "400 or 404 when a token is exchanged",
        answers: "Is it the API name (not the label) of a published Custom Client deployment?",
        fix: "copy API Name from Setup > Embedded Service Deployments; it begins with a letter and has letters, \
              digits and `_`. Publish it, and wait ten minutes",
        source: Doc,
        online: false,
        check: profiles::deployment,
    },
    Case {
        id: "audience",
        title: "`audience` fits the host and the user",
        sees: "`audience is invalid`",
        answers: "Is `aud` https://login.salesforce.com, for a sandbox https://test.salesforce.com, or the My Domain \
                  URL, without a slash at the end?",
        fix: "set `audience` in [oauth.NAME] to one of these, and `token_url` to the org's My Domain",
        source: Field,
        online: false,
        check: profiles::audience,
    },
    Case {
        id: "audience-host",
        title: "The app is asked where it can be found",
        sees: "`app_not_found`: External client app is not installed in this org",
        answers: "Is an External Client App asked through My Domain, as it must since Spring '26?",
        fix: "`audience = \"https://ACME.my.salesforce.com\"` in [oauth.NAME], and no `token_url`: Setup > My Domain \
              shows the name",
        source: Field,
        online: false,
        check: profiles::audience_host,
    },
    Case {
        id: "username",
        title: "`username` is a user name of that org",
        sees: "`invalid_grant`",
        answers: "Is `sub` the user name, with the sandbox's suffix, and not the e-mail address?",
        fix: "copy Username from Setup > Users; a sandbox adds its name, as integration@acme.com.uat",
        source: Field,
        online: false,
        check: profiles::username,
    },
    Case {
        id: "limits",
        title: "Profiles together stay below Salesforce's limits",
        sees: "it works, then fails for everybody: `LOGIN_RATE_EXCEEDED`, 429",
        answers: "Do all profiles of one user or org together keep to 3,600 logins an hour and 200 access-token \
                  requests a minute?",
        fix: "lower `logins_per_hour` in [oauth.NAME], or `requests_per_minute` in [identity.NAME.messaging]; with \
              several replicas, to their share",
        source: Doc,
        online: false,
        check: profiles::limits,
    },
    Case {
        id: "runaway-page",
        title: "A page that asks without end is stopped",
        sees: "\"Something went wrong. Log in again…\", and 40 tokens a second for one user",
        answers: "Is the endpoint's answer never cached (no-store, no ETag), and is there a limit for each user?",
        fix: "tokenmint's answers are never stored; leave `remint_burst` and `remints_per_minute` in [server.limits] \
              at their defaults, and use examples/browser/tokenmint.js in the page",
        source: Field,
        online: false,
        check: profiles::runaway,
    },
    Case {
        id: "public-url",
        title: "Salesforce can reach the Endpoint URL",
        sees: "every chat is a guest's",
        answers: "Is the JWKS on https, on port 443, for everybody?",
        fix: "`url` in [server.public] is what Salesforce asks: a host name of yours on 443, without a path",
        source: Field,
        online: false,
        check: profiles::public_url,
    },
    Case {
        id: "jwks-reachable",
        title: "The JWKS answers 200 at once",
        sees: "every chat is a guest's, and every status is 200",
        answers: "Is the Endpoint URL behind a login, a redirect, or down?",
        fix: "make `curl -i URL` from outside answer 200 and JSON: no login, no redirect, no bot protection; the URL \
              in Setup > Enhanced Chat User Verification > Keysets is the same",
        source: Field,
        online: true,
        check: online::reachable,
    },
    Case {
        id: "jwks-light",
        title: "The JWKS is fast and small",
        sees: "now and then a chat is a guest's",
        answers: "Does it answer within 500 ms and 50 KiB, the defaults of the library that most Java servers fetch \
                  with?",
        fix: "put a cache in front of it, near Salesforce; remove keys that are gone (`tokenmint keys list`)",
        source: Field,
        online: true,
        check: online::light,
    },
    Case {
        id: "jwks-current",
        title: "The JWKS shows the keys that sign",
        sees: "after a change of keys every chat is a guest's",
        answers: "Salesforce asks: Was the JWT created using the same JWKS uploaded and configured?",
        fix: "let every replica have the same key files, and no cache keep the answer for longer than its max-age",
        source: Field,
        online: true,
        check: online::same,
    },
    Case {
        id: "clock",
        title: "Our clock is Salesforce's",
        sees: "`expired authorization code`; some chats end at once",
        answers: "Do the clocks agree within Salesforce's three minutes?",
        fix: "run NTP (chrony, systemd-timesyncd) on this host",
        source: Doc,
        online: true,
        check: online::clock,
    },
    Case {
        id: "exchange",
        title: "Salesforce gives a token, for a verified user",
        sees: "502 `upstream_rejected` or `unverified`",
        answers: "Does one exchange work?",
        fix: "see the user's Login History in Setup, and the other findings",
        source: Field,
        online: true,
        check: online::exchange,
    },
    Case {
        id: "auth-schemes",
        title: "The channel has an active User Verification configuration",
        sees: "`User verification configuration has no active AuthSchemes`",
        answers: "Is the keyset linked to the channel, and the configuration Active?",
        fix: "Setup > Messaging Settings > the channel > User Verification > New: name, keyset, Active",
        source: Field,
        online: true,
        check: online::auth_schemes,
    },
    Case {
        id: "verification-mode",
        title: "The channel verifies users",
        sees: "400, `Set the auth mode to false`",
        answers: "Is Add User Verification on, and the authenticated endpoint asked?",
        fix: "Setup > Messaging Settings > Edit in the channel's row: Add User Verification",
        source: Field,
        online: true,
        check: online::mode,
    },
    Case {
        id: "preauthorized",
        title: "The user may use the app",
        sees: "`user hasn't approved this consumer`, `invalid_app_access`",
        answers: "Is the app for \"Admin approved users are pre-authorized\", and the user's profile or permission set \
                  assigned?",
        fix: "Setup > External Client App Manager > the app > Policies: Permitted Users, and assign the permission \
              set; scopes api and refresh_token, offline_access",
        source: Doc,
        online: true,
        check: online::approval,
    },
    Case {
        id: "app-propagation",
        title: "Salesforce knows the app",
        sees: "`invalid_client_id`: client identifier invalid",
        answers: "Is the consumer key right, and was the app made more than 30 minutes ago?",
        fix: "wait: a new app takes two to thirty minutes, and asking often gets the address blocked. Then compare \
              `consumer_key` in [oauth.NAME] with Setup > External Client App Manager > the app > Consumer Key and Secret",
        source: Field,
        online: true,
        check: online::propagation,
    },
    Case {
        id: "app-certificate-of-key",
        title: "The app has the certificate of the key that signs",
        sees: "`invalid assertion`",
        answers: "Is the certificate in the app that of this keyset's signing key?",
        fix: "upload KID.crt to Setup > External Client App Manager > the app > OAuth settings > Use digital signatures",
        source: Field,
        online: true,
        check: online::certificate,
    },
];
