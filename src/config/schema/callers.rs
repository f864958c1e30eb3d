//! The schema of `[callers.NAME]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Choice, Count, List, Text, UserId};
use super::{KeySchema, NAME, REGEX, Rule, TableSchema, TextForm, key, plain, table, text};

const API_KEY_HASH: TextForm = text("SHA-256 in hex", "^[0-9A-Fa-f]{64}$", 64);
const CLIENT_SAN: TextForm = text("host name or URI", "^[^*\\s]+$", 2048);
const ALLOWED: TextForm =
    text("profile or bundle", r"^(identity|oauth|intercom|hs256|bundles)\.[A-Za-z0-9_-]{1,64}$", 73);
const CREDENTIALS: &[&str] = &["api_key_sha256", "client_san", "peer_uid", "jwt_issuer"];
const CREDENTIAL: &str = "at least one of `api_key_sha256`, `client_san`, `peer_uid` and `jwt_issuer`";
const CLAIM_NAME: TextForm = TextForm { label: "claim name", ..plain(255) };
const CLAIM_VALUE: TextForm = TextForm { label: "claim value", ..plain(2048) };

pub(super) static CALLERS: TableSchema = TableSchema::of_named("The callers.", &CALLER_ENTRY);
static CALLER_ENTRY: KeySchema = table("NAME", &CALLER);

static CALLER: TableSchema = TableSchema::new(
    "A backend that may request tokens, how it authenticates, and what it may request.",
    &[
        key(
            "api_key_sha256",
            List(API_KEY_HASH),
            Conditional(CREDENTIAL),
            "The SHA-256 hashes of the caller's API keys. `tokenmint callers new` makes key and hash. List several hashes to \
             change a key without a pause. No two callers may share one.",
        ),
        key(
            "client_san",
            List(CLIENT_SAN),
            Conditional(CREDENTIAL),
            "Names in the caller's client certificate: host names, or URIs like `spiffe://acme/rails`. One match is enough. Names \
             are compared whole, and no two callers may share one. Clients present certificates only if `client_ca_file` is set.",
        ),
        key(
            "peer_uid",
            UserId,
            Conditional(CREDENTIAL),
            "The user id of the caller's process, if `[server]` listens on a Unix socket.",
        ),
        key(
            "jwt_issuer",
            Text(NAME),
            Conditional(CREDENTIAL),
            "The issuer of JWTs with which the caller authenticates: the NAME of `[issuers.NAME]`. The caller sends such a JWT in \
             place of an API key. It needs `jwt_claims`.",
        ),
        table("jwt_claims", &JWT_CLAIMS),
        key(
            "allow",
            List(ALLOWED),
            Required,
            "The profiles and bundles that the caller may use. A bundle needs its profiles in this list too.",
        ),
        key(
            "rate",
            Count { max: Some(1_000_000), reason: "" },
            Absent,
            "The number of requests each second. Beyond it, the answer is 429. A reload that changes `rate` or `burst` starts with \
             a full `burst`.",
        ),
        key(
            "burst",
            Count { max: Some(1_000_000), reason: "" },
            Derived("the value of `rate`"),
            "The number of requests at once. It needs `rate`.",
        ),
        key(
            "subjects",
            Text(REGEX),
            Absent,
            "A pattern that must match the whole subject, in addition to the profile's pattern. It holds for Intercom's `user_id` \
             too.",
        ),
        key(
            "subjects_per_minute",
            Count { max: Some(1_000_000), reason: "" },
            Absent,
            "The number of different subjects in any sixty seconds. Beyond it, the answer is 429. It bounds the damage of a stolen \
             credential. A reload keeps the count while the caller keeps its name and has this setting.",
        ),
        key(
            "subject_token",
            Choice(&["off", "optional", "required"]),
            Default("\"off\""),
            "Whether the caller proves who the user is with a `subject_token`, a JWT of `subject_issuer`. With `required`, each \
             request for a user's token needs one, so a stolen credential of the caller names nobody. With `optional`, a request \
             may name the subject instead. With `off`, `subject_token` is refused.",
        ),
        key(
            "subject_issuer",
            Text(NAME),
            Conditional("needed if `subject_token` is `required` or `optional`"),
            "The issuer of subject tokens: the NAME of `[issuers.NAME]`. It needs `subject_token`.",
        ),
        key(
            "subject_claim",
            Text(CLAIM_NAME),
            Default("\"sub\""),
            "The claim of a subject token that names the subject.",
        ),
        key(
            "policy",
            Choice(&["enforce", "audit"]),
            Default("\"enforce\""),
            "With `audit`, requests that `allow`, `subjects`, `subjects_per_minute` or `subject_token` would deny are allowed, counted \
             and logged. See [Security](../security.md).",
        ),
    ],
)
.with_rules(&[
    Rule::AtLeastOne(CREDENTIALS),
    Rule::Needs("burst", "rate"),
    Rule::Needs("jwt_issuer", "jwt_claims"),
    Rule::Needs("jwt_claims", "jwt_issuer"),
    Rule::Needs("subject_issuer", "subject_token"),
]);

static JWT_CLAIMS: TableSchema = TableSchema::of_named(
    "The claims that the caller's JWT must have. `sub` is required. Each value is compared whole, without patterns.",
    &JWT_CLAIM,
)
.with_names(CLAIM_NAME);
static JWT_CLAIM: KeySchema = key(
    "CLAIM",
    List(CLAIM_VALUE),
    Conditional("`sub` is required"),
    "The accepted values of the claim. The claim must be a string.",
);
