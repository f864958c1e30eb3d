//! The schema of `[stores.NAME]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Choice, Count, Text};
use super::{HTTPS_ORIGIN, KeySchema, PATH, Rule, TableSchema, TextForm, key, table, text};

/// The names of all kinds of stores. The parser knows which kind it is, and accepts less.
pub(super) const SEAL_KEY: TextForm = text("key of a store", "^[A-Za-z0-9_-][A-Za-z0-9._:/-]{0,255}$", 256);
const PATH_SEGMENT: TextForm = text("name", "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$", 128);
const MOUNT: TextForm =
    text("path", "^/*[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127})*/*$", 260);
const REGION: TextForm = text("AWS region", "^[a-z][a-z0-9-]*-[a-z0-9-]*[0-9]$", 32);
const LOGIN: &str = "with `kind = \"vault\"`, exactly one of `token_file` and `auth`";
const PKCS11: &str = "required with `kind = \"pkcs11\"`";

pub(super) static STORES: TableSchema =
    TableSchema::of_named("The stores that seal private keys, or sign.", &STORE_ENTRY);
static STORE_ENTRY: KeySchema = table("NAME", &STORE);

static STORE: TableSchema = TableSchema::new(
    "A store of keys outside of this host. `sealed_by` of a keyset lets it seal private keys, so that they don't lie on a disk in the \
     clear: see [Sealed keys](../operate/sealed-keys.md). `signed_by` lets it sign with keys that never leave it: see [Remote \
     signing](../operate/remote-signing.md).",
    &[
        key(
            "kind",
            Choice(&["vault", "aws-kms", "pkcs11"]),
            Required,
            "The kind of store: `vault` is the transit secrets engine of HashiCorp Vault or OpenBao, `aws-kms` is [AWS \
             KMS](../operate/aws-kms.md), and `pkcs11` a token of a [PKCS#11](../operate/pkcs11.md) module: an HSM or a TPM.",
        ),
        key(
            "address",
            Text(HTTPS_ORIGIN),
            Conditional("required with `kind = \"vault\"`"),
            "The address of Vault or OpenBao, without a path.",
        ),
        key(
            "mount",
            Text(MOUNT),
            Default("\"transit\""),
            "The path at which the transit secrets engine is mounted.",
        ),
        key(
            "namespace",
            Text(MOUNT),
            Absent,
            "The namespace of the mount and of the auth method (`X-Vault-Namespace`).",
        ),
        key(
            "ca_file",
            Text(PATH),
            Absent,
            "The certificate authorities that the connection trusts, in PEM. Without it, it trusts the host's.",
        ),
        key(
            "region",
            Text(REGION),
            Conditional("required with `kind = \"aws-kms\"`"),
            "The AWS region of the keys, for example `eu-central-1`.",
        ),
        key(
            "endpoint",
            Text(HTTPS_ORIGIN),
            Derived("the address of KMS in `region`"),
            "The address of KMS, without a path, for example of a VPC endpoint without private DNS.",
        ),
        key(
            "token_file",
            Text(PATH),
            Conditional(LOGIN),
            "A file with a token of the store, for example one that Vault Agent keeps fresh. The service reads it anew for each \
             login.",
        ),
        key(
            "auth",
            Choice(&["kubernetes", "jwt"]),
            Conditional(LOGIN),
            "The auth method by which the service logs in with the JWT in `jwt_file`.",
        ),
        key(
            "auth_mount",
            Text(MOUNT),
            Derived("the value of `auth`"),
            "The path at which the auth method is mounted.",
        ),
        key("role", Text(PATH_SEGMENT), Conditional("required with `auth`"), "The role to log in as."),
        key(
            "jwt_file",
            Text(PATH),
            Conditional("required with `auth`"),
            "The file with the JWT, for example the token of the pod's service account. The service reads it anew for each login.",
        ),
        key(
            "module",
            Text(PATH),
            Conditional(PKCS11),
            "The PKCS#11 library of the HSM. The service loads it, so it needs a build for glibc: see \
             [PKCS#11](../operate/pkcs11.md).",
        ),
        key(
            "token_label",
            Text(super::plain(32)),
            Conditional(PKCS11),
            "The label of the token, as `pkcs11-tool --list-slots` shows it.",
        ),
        key(
            "pin_file",
            Text(PATH),
            Conditional(PKCS11),
            "A file with the PIN of the token's user. The service reads it anew for each login. It tries a PIN that the token refused again \
             only after a change of the file or a restart.",
        ),
        key(
            "max_signatures_per_second",
            Count { max: Some(100_000), reason: "" },
            Default("200"),
            "The most signatures that this process asks for in a second. Set it below the store's quota, divided by the number of replicas. \
             Beyond it, requests wait for up to a second, and then get 503 with `Retry-After`.",
        ),
        key(
            "max_concurrent_signatures",
            Count { max: Some(1_000), reason: "" },
            Default("16"),
            "The most signatures that this process asks for at once.",
        ),
    ],
)
.with_rules(&[
    Rule::AtMostOne(&["token_file", "auth"]),
    Rule::Needs("auth", "role"),
    Rule::Needs("auth", "jwt_file"),
    Rule::Excludes("token_file", "auth_mount"),
    Rule::Excludes("token_file", "role"),
    Rule::Excludes("token_file", "jwt_file"),
]);
