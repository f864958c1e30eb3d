//! The schema of `[keysets.NAME]`, and of `keyset.toml` in a key directory.

use super::Presence::{Absent, Conditional, Default, Required};
use super::ValueKind::{Duration, Flag, Moment, Text};
use super::{KeySchema, PATH, PEM, Rule, SECRET, TableSchema, TextForm, ValueKind, key, table, text};

const KEY_ID: TextForm = text("key id", "^[A-Za-z0-9_~:@+=-][A-Za-z0-9._~:@+=-]{0,127}$", 128);
const REMOTE_KEY: TextForm = text("key of a store", "^[A-Za-z0-9_-][A-Za-z0-9._:/-]{0,255}$", 256);
const ONE_SOURCE: &str = "exactly one of `directory`, `key_file` and `key`";

pub(super) static KEYSETS: TableSchema = TableSchema::of_named("The keysets.", &KEYSET_ENTRY);
static KEYSET_ENTRY: KeySchema = table("NAME", &KEYSET);

static KEYSET: TableSchema = TableSchema::new(
    "RSA keys that are published together at `/keysets/NAME/jwks.json`. One issuer in Salesforce trusts one keyset.",
    &[
        key(
            "directory",
            Text(PATH),
            Conditional(ONE_SOURCE),
            "The folder with the keys. The name of a key file, `KID.key`, is the key id. `KID.crt` and [`keyset.toml`](#keysettoml) are \
             optional.",
        ),
        key("key_file", Text(PATH), Conditional(ONE_SOURCE), "The PEM file of the keyset's only private key."),
        key(
            "key",
            Text(PEM),
            Conditional(ONE_SOURCE),
            "The keyset's only private key, as PEM text. The text has real newlines, has `\\n` written out, or is base64 of the \
             whole PEM.",
        ),
        key(
            "kid",
            Text(KEY_ID),
            Conditional("required with `key` and `key_file`, refused with `directory`"),
            "The key id: 1 to 128 letters, digits or any of `._~:@+=-`. It doesn't begin with a dot.",
        ),
        key(
            "passphrase",
            Text(SECRET),
            Conditional("at most one of `passphrase` and `passphrase_file`"),
            "The passphrase that opens encrypted PKCS#8 keys of this keyset.",
        ),
        key(
            "passphrase_file",
            Text(PATH),
            Conditional("at most one of `passphrase` and `passphrase_file`"),
            "The file that holds `passphrase`.",
        ),
        key(
            "sealed_by",
            Text(super::NAME),
            Conditional("needs `directory` and `seal_key`"),
            "The store that seals the private keys: the NAME of `[stores.NAME]`. The directory then has `KID.key.sealed` in the place of \
             `KID.key`. See [Sealed keys](../operate/sealed-keys.md).",
        ),
        key(
            "seal_key",
            Text(super::stores::SEAL_KEY),
            Conditional("required with `sealed_by`"),
            "The store's name for the key that seals. For `aws-kms`: its id, its ARN or `alias/NAME`.",
        ),
        key(
            "signed_by",
            Text(super::NAME),
            Conditional("needs `directory`"),
            "The store that signs: the NAME of `[stores.NAME]`. Its keys are those that [`keyset.toml`](#keysettoml) lists with `remote`. \
             They never leave the store. See [Remote signing](../operate/remote-signing.md).",
        ),
        key(
            "publish_lead",
            Duration { min: "1s", max: "90d" },
            Default("\"24h\""),
            "The shortest time for which a key is published before it signs. Caches keep the JWKS for a quarter of it, at most \
             5 minutes.",
        ),
        key(
            "retire_margin",
            Duration { min: "1s", max: "90d" },
            Default("\"1h\""),
            "The time for which a key stays published after the last token that it may have signed has expired.",
        ),
    ],
)
.with_rules(&[
    Rule::ExactlyOne(&["directory", "key_file", "key"]),
    Rule::AtMostOne(&["passphrase", "passphrase_file"]),
    Rule::Needs("key_file", "kid"),
    Rule::Needs("key", "kid"),
    Rule::Excludes("directory", "kid"),
    Rule::Needs("sealed_by", "directory"),
    Rule::Needs("sealed_by", "seal_key"),
    Rule::Needs("seal_key", "sealed_by"),
    Rule::Excludes("sealed_by", "passphrase"),
    Rule::Excludes("sealed_by", "passphrase_file"),
    Rule::Needs("signed_by", "directory"),
]);

/// The file `keyset.toml`.
pub static SCHEDULE: TableSchema = TableSchema::new(
    "The schedule of the keys in a directory.",
    &[key("key", ValueKind::Tables(&SCHEDULED_KEY), Required, "")],
);

static SCHEDULED_KEY: TableSchema = TableSchema::new(
    "The schedule of a key directory. `tokenmint keys rotate` writes it. Without the file, the directory may have one key, which \
     signs. Each `[[key]]` is one key of the directory. The key with the latest `sign_from` that has passed signs.",
    &[
        key("kid", Text(KEY_ID), Required, "The key id: the name of the file `KID.key`."),
        key(
            "sign_from",
            Moment,
            Conditional("required, unless the entry has `retired`"),
            "The date from which the key signs, until another key takes over.",
        ),
        key(
            "added",
            Moment,
            Absent,
            "The date since which the key has been published. `sign_from` must come at least `publish_lead` later.",
        ),
        key(
            "retired",
            Moment,
            Absent,
            "The date at which the key was retired. The key neither signs nor is published, whatever the date. The entry stays \
             in the schedule, because the dates of other keys depend on it. `true` is accepted too, with a warning.",
        ),
        key(
            "remote",
            Text(REMOTE_KEY),
            Absent,
            "The key of the store of `signed_by` that signs, in the place of a file `KID.key`: its name, and for `vault` its version, for \
             example `crm-key:1`.",
        ),
        key(
            "emergency",
            Flag,
            Default("false"),
            "Allows dates that verifiers don't expect. Tokens of this key fail until verifiers fetch the keys again.",
        ),
    ],
)
.with_rules(&[Rule::AtLeastOne(&["sign_from", "retired"])]);
