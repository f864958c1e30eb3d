//! The schema of `[issuers.NAME]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Duration, Flag, List, Text};
use super::{HTTPS_URL, KeySchema, LONGEST_URL, PATH, Rule, TableSchema, TextForm, key, plain, table, text};

const ALGORITHM: TextForm =
    text("signature algorithm", "^((RS|PS)(256|384|512)|ES(256|384)|EdDSA|HS256)$", 5);
const SOURCES: &[&str] = &["jwks_url", "discovery", "jwks_file", "secret_file"];
const SOURCE: &str = "exactly one of `jwks_url`, `discovery`, `jwks_file` and `secret_file`";

pub(super) static ISSUERS: TableSchema =
    TableSchema::of_named("The issuers whose JWTs the service accepts.", &ISSUER_ENTRY);
static ISSUER_ENTRY: KeySchema = table("NAME", &ISSUER);

static ISSUER: TableSchema = TableSchema::new(
    "An issuer of JWTs, for example a Kubernetes cluster or an identity provider. `jwt_issuer` and `subject_issuer` of a caller \
     refer to it. See [Workload identity](../operate/workload-identity.md) and [Subject tokens](../integrate/subject-tokens.md).",
    &[
        key("issuer", Text(plain(255)), Required, "The claim `iss` of its tokens, compared byte for byte."),
        key(
            "audience",
            List(plain(LONGEST_URL)),
            Required,
            "The accepted audiences. One of them must be in the claim `aud` of a token.",
        ),
        key(
            "jwks_url",
            Text(HTTPS_URL),
            Conditional(SOURCE),
            "The address of the issuer's public keys, a JWKS (RFC 7517).",
        ),
        key(
            "discovery",
            Flag,
            Conditional(SOURCE),
            "With `true`, the service finds the JWKS by OpenID Connect Discovery: at `/.well-known/openid-configuration` below \
             `issuer`, which must then be an https URL.",
        ),
        key("jwks_file", Text(PATH), Conditional(SOURCE), "A file with the JWKS."),
        key(
            "secret_file",
            Text(PATH),
            Conditional(SOURCE),
            "A file with the shared secret of HS256, at least 32 bytes (RFC 7518, section 3.2).",
        ),
        key(
            "ca_file",
            Text(PATH),
            Absent,
            "The certificate authorities that the fetch trusts, in PEM. Without it, the fetch trusts the host's. It needs `jwks_url` \
             or `discovery`.",
        ),
        key(
            "bearer_token_file",
            Text(PATH),
            Absent,
            "A file with a token that is sent with the fetch, for example the token of the pod's service account. The service reads \
             it anew for each fetch. It needs `jwks_url` or `discovery`.",
        ),
        key(
            "algorithms",
            List(ALGORITHM),
            Derived("`[\"RS256\", \"ES256\"]`, or `[\"HS256\"]` with `secret_file`"),
            "The accepted signature algorithms.",
        ),
        key(
            "leeway",
            Duration { min: "0s", max: "5m" },
            Default("\"30s\""),
            "The accepted difference between the clocks, for `iat` and `nbf`. `exp` has no leeway.",
        ),
        key(
            "max_age",
            Duration { min: "1s", max: "24h" },
            Absent,
            "The largest age of a token. A token with an older `iat`, or without one, is refused.",
        ),
    ],
)
.with_rules(&[Rule::ExactlyOne(SOURCES)]);
