//! The schema of the profiles: `[identity.NAME]`, `[oauth.NAME]`, `[intercom.NAME]`, `[hs256.NAME]`, and of `[bundles.NAME]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Choice, ClaimValue, Count, Duration, Flag, List, Text};
use super::{
    HTTPS_ORIGIN, HTTPS_URL, KeySchema, LONGEST_URL, NAME, PATH, REGEX, Rule, SECRET, TableSchema, TextForm,
    key, plain, table, text,
};

const CLAIM: TextForm = TextForm { label: "claim name", ..plain(64) };
const ORG_ID: TextForm = text("org id", "^00D[A-Za-z0-9]{12}([A-Za-z0-9]{3})?$", 18);
const API_NAME: TextForm = text("API name", "^[A-Za-z][A-Za-z0-9_]*$", super::NO_LIMIT);
const HEADER_VALUE: TextForm = text("visible ASCII", "^[!-~]{1,256}$", 256);
const BUNDLED_PROFILE: TextForm = text(
    "`identity.NAME`, `intercom.NAME` or `hs256.NAME`",
    r"^(identity|intercom|hs256)\.[A-Za-z0-9_-]{1,64}$",
    73,
);

pub(super) static IDENTITY_PROFILES: TableSchema =
    TableSchema::of_named("The profiles of identity tokens.", &IDENTITY_ENTRY);
static IDENTITY_ENTRY: KeySchema = table("NAME", &IDENTITY);

static IDENTITY: TableSchema = TableSchema::new(
    "Identity tokens for user verification of Salesforce Enhanced Chat: `POST /identity-token`.",
    &[
        key("keyset", Text(NAME), Required, "The keyset that signs: the NAME of `[keysets.NAME]`."),
        key(
            "issuer",
            Text(plain(255)),
            Required,
            "The claim `iss`. Salesforce compares it byte for byte with the keyset's issuer in Setup.",
        ),
        key(
            "audience",
            Text(plain(LONGEST_URL)),
            Absent,
            "The claim `aud`. Without it, the token has no `aud`.",
        ),
        key(
            "algorithm",
            Choice(&["RS256", "RS512"]),
            Default("\"RS256\""),
            "The signature algorithm. All profiles of one keyset have the same.",
        ),
        key(
            "ttl",
            Duration { min: "60s", max: "24h" },
            Derived("`1h`, or `max_ttl` if that is less"),
            "The lifetime of a token when the request has no `ttl`.",
        ),
        key(
            "max_ttl",
            Duration { min: "60s", max: "24h" },
            Derived("the value of `ttl`"),
            "The longest lifetime that a request may ask for.",
        ),
        key(
            "claims",
            List(CLAIM),
            Default("[]"),
            "The names of extra claims that callers may set. `iss`, `sub`, `aud`, `exp`, `nbf`, `iat` and `jti` are refused.",
        ),
        key(
            "subjects",
            Text(REGEX),
            Absent,
            "A pattern that must match the whole subject. Without it, every subject that \
             [isn't a placeholder](../security.md) is accepted.",
        ),
        table("messaging", &MESSAGING),
    ],
);

static MESSAGING: TableSchema = TableSchema::new(
    "The deployment for which `POST /messaging-access-token` exchanges identity tokens of this profile. Without this section, that \
     endpoint refuses the profile.",
    &[
        key(
            "scrt_url",
            Text(HTTPS_ORIGIN),
            Required,
            "The address of the messaging API, from the deployment's code snippet.",
        ),
        key("org_id", Text(ORG_ID), Required, "The org's id: Setup > Company Information."),
        key(
            "es_developer_name",
            Text(API_NAME),
            Required,
            "The API name of the Embedded Service deployment.",
        ),
        key(
            "requests_per_minute",
            Count { max: Some(200), reason: ", Salesforce's limit for a whole org" },
            Default("150"),
            "tokenmint's share of Salesforce's 200 requests a minute for the whole org.",
        ),
    ],
);

pub(super) static OAUTH_PROFILES: TableSchema =
    TableSchema::of_named("The profiles of OAuth logins.", &OAUTH_ENTRY);
static OAUTH_ENTRY: KeySchema = table("NAME", &OAUTH);

static OAUTH: TableSchema = TableSchema::new(
    "Assertions and access tokens of the OAuth 2.0 JWT bearer flow: `POST /oauth-assertion` and `POST /oauth-access-token`.",
    &[
        key(
            "keyset",
            Text(NAME),
            Required,
            "The keyset that signs. Give it no identity profile too: `check` warns about a shared keyset.",
        ),
        key(
            "consumer_key",
            Text(plain(512)),
            Required,
            "The claim `iss`: the Consumer Key of the External Client App.",
        ),
        key(
            "username",
            Text(plain(512)),
            Required,
            "The claim `sub`: the Salesforce user name to log in as. It isn't the e-mail address.",
        ),
        key(
            "audience",
            Text(HTTPS_URL),
            Required,
            "The claim `aud`: the org's My Domain URL, `https://login.salesforce.com` or `https://test.salesforce.com`.",
        ),
        key(
            "token_url",
            Text(HTTPS_URL),
            Derived("the `audience` with `/services/oauth2/token`"),
            "The address to which tokenmint sends the assertion.",
        ),
        key(
            "assertion_ttl",
            Duration { min: "30s", max: "5m" },
            Default("\"150s\""),
            "The lifetime of an assertion.",
        ),
        key(
            "access_token_ttl",
            Duration { min: "60s", max: "24h" },
            Default("\"55m\""),
            "The time for which an access token is cached if Salesforce doesn't say when it expires. Keep it below the session \
             timeout of the app and the org.",
        ),
        key(
            "logins_per_hour",
            Count { max: Some(3600), reason: ", Salesforce's limit for a user" },
            Default("360"),
            "tokenmint's share of Salesforce's 3,600 logins an hour for the user.",
        ),
        key(
            "check_session",
            Duration { min: "1s", max: "1h" },
            Absent,
            "With it, `POST /oauth2/token` checks a cached token at `/services/oauth2/userinfo` before it answers with it, unless a \
             check or the login is more recent than this. A token whose session has ended is replaced.",
        ),
    ],
);

pub(super) static INTERCOM_PROFILES: TableSchema =
    TableSchema::of_named("The profiles of Intercom user JWTs.", &INTERCOM_ENTRY);
static INTERCOM_ENTRY: KeySchema = table("NAME", &INTERCOM);

static INTERCOM: TableSchema = TableSchema::new(
    "Intercom user JWTs for the Messenger and Fin: `POST /intercom-user-jwt`.",
    &[
        key(
            "secret",
            Text(SECRET),
            Conditional("exactly one of `secret` and `secret_file`"),
            "The Messenger API Secret of the workspace, at least 32 bytes (RFC 7518, section 3.2).",
        ),
        key(
            "secret_file",
            Text(PATH),
            Conditional("exactly one of `secret` and `secret_file`"),
            "The file that holds `secret`.",
        ),
        key(
            "allow_short_secret",
            Flag,
            Default("false"),
            "Accepts a secret of less than 32 bytes, if Intercom gave you one.",
        ),
        key(
            "ttl",
            Duration { min: "60s", max: "30 days" },
            Derived("`1h`, or `max_ttl` if that is less"),
            "The lifetime of a token when the request has no `ttl`.",
        ),
        key(
            "max_ttl",
            Duration { min: "60s", max: "30 days" },
            Derived("the value of `ttl`"),
            "The longest lifetime that a request may ask for.",
        ),
        key(
            "claims",
            List(CLAIM),
            Default("[]"),
            "The names of extra claims that callers may set. `user_id`, `iss`, `sub`, `aud`, `exp`, `nbf`, `iat` and `jti` are \
             refused.",
        ),
    ],
)
.with_rules(&[Rule::ExactlyOne(&["secret", "secret_file"])]);

pub(super) static HS256_PROFILES: TableSchema =
    TableSchema::of_named("The profiles of tokens for other relying parties.", &HS256_ENTRY);
static HS256_ENTRY: KeySchema = table("NAME", &HS256);

static HS256: TableSchema = TableSchema::new(
    "Tokens for other relying parties that share a secret with you, for example Zendesk or Stream: `POST /hs256-token`. \
     [Other chat products](../integrate/hs256.md) has their configurations.",
    &[
        key(
            "secret",
            Text(SECRET),
            Conditional("exactly one of `secret` and `secret_file`"),
            "The secret that the relying party gave you, at least 32 bytes (RFC 7518, section 3.2).",
        ),
        key(
            "secret_file",
            Text(PATH),
            Conditional("exactly one of `secret` and `secret_file`"),
            "The file that holds `secret`.",
        ),
        key(
            "allow_short_secret",
            Flag,
            Default("false"),
            "Accepts a secret of less than 32 bytes, if the relying party gave you one.",
        ),
        key(
            "subject_claim",
            Text(CLAIM),
            Required,
            "The name of the claim that names the user. Its value is `sub` of the request. `exp`, `iat` and `nbf` are refused.",
        ),
        table("fixed_claims", &FIXED_CLAIMS),
        key(
            "claims",
            List(CLAIM),
            Default("[]"),
            "The names of extra claims that callers may set. The `subject_claim`, the names in `fixed_claims`, `iss`, `sub`, `aud`, \
             `exp`, `nbf`, `iat` and `jti` are refused.",
        ),
        key("kid", Text(HEADER_VALUE), Absent, "The header's `kid`: the id of the secret, if it has one."),
        key("cty", Text(HEADER_VALUE), Absent, "The header's `cty`, if the relying party requires one."),
        key(
            "ttl",
            Duration { min: "60s", max: "30 days" },
            Derived("`1h`, or `max_ttl` if that is less"),
            "The lifetime of a token when the request has no `ttl`.",
        ),
        key(
            "max_ttl",
            Duration { min: "60s", max: "30 days" },
            Derived("the value of `ttl`"),
            "The longest lifetime that a request may ask for.",
        ),
    ],
)
.with_rules(&[Rule::ExactlyOne(&["secret", "secret_file"])]);

static FIXED_CLAIMS: TableSchema = TableSchema::of_named(
    "The constant claims of every token of the profile. Callers can't change them. `iss`, `aud` and `sub` may be among them. The \
     `subject_claim`, `exp`, `iat`, `nbf` and `jti` are refused.",
    &FIXED_CLAIM,
)
.with_names(CLAIM);
static FIXED_CLAIM: KeySchema = key(
    "CLAIM",
    ClaimValue,
    Absent,
    "The value of the claim. Numbers keep their digits. A variable of the environment sets a string.",
);

pub(super) static BUNDLES: TableSchema = TableSchema::of_named("The bundles.", &BUNDLE_ENTRY);
static BUNDLE_ENTRY: KeySchema = table("NAME", &BUNDLE);
static BUNDLED: KeySchema = key(
    "ENTRY",
    Text(BUNDLED_PROFILE),
    Conditional("at least one"),
    "The profile of one token of the bundle. ENTRY is the name of the token in the answer, for example \
     `salesforce_identity_token`.",
);

static BUNDLE: TableSchema = TableSchema::of_named(
    "The tokens that one page load needs, minted by one `POST /bundle`. A caller needs the bundle and each of its profiles in \
     `allow`.",
    &BUNDLED,
);
