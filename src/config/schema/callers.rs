//! The schema of `[callers.NAME]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Choice, Count, List, Text, UserId};
use super::{KeySchema, REGEX, Rule, TableSchema, TextForm, key, table, text};

const API_KEY_HASH: TextForm = text("SHA-256 in hex", "^[0-9A-Fa-f]{64}$", 64);
const CLIENT_SAN: TextForm = text("host name or URI", "^[^*\\s]+$", 2048);
const ALLOWED: TextForm =
    text("profile or bundle", r"^(identity|oauth|intercom|bundles)\.[A-Za-z0-9_-]{1,64}$", 73);
const CREDENTIAL: &str = "at least one of `api_key_sha256`, `client_san` and `peer_uid`";

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
            "policy",
            Choice(&["enforce", "audit"]),
            Default("\"enforce\""),
            "With `audit`, requests that `allow`, `subjects` or `subjects_per_minute` would deny are allowed, counted and logged. \
             See [Security](../security.md).",
        ),
    ],
)
.with_rules(&[Rule::AtLeastOne(&["api_key_sha256", "client_san", "peer_uid"]), Rule::Needs("burst", "rate")]);
