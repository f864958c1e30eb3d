//! The schema of `[server]` and `[cache]`.

use super::Presence::{Absent, Conditional, Default, Derived, Required};
use super::ValueKind::{Choice, Count, Duration, Size, Text};
use super::{HTTPS_ORIGIN, LONGEST_URL, PATH, Rule, SECRET, TableSchema, TextForm, key, table, text};

const ADDRESS: TextForm = text(
    "address",
    r"^(unix:[\s\S]+|localhost:[0-9]{1,5}|[0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.%]+\]:[0-9]{1,5})$",
    4096,
);
const REDIS_URL: TextForm = text(
    "rediss URL",
    r"^(rediss://|redis://([^@/?#]*@)?(localhost|[^/?#]*\.localhost|127\.|\[::1\]))[^?#]+$",
    LONGEST_URL,
);

pub(super) static SERVER: TableSchema = TableSchema::new(
    "The listener for your backends, and settings of the whole process.",
    &[
        key(
            "listen",
            Text(ADDRESS),
            Default("\"127.0.0.1:8080\""),
            "The address of the listener for minting. This listener serves everything else too, unless a section below moves it. \
             The forms are `IP:PORT`, `[IPv6]:PORT`, `localhost:PORT` and `unix:PATH`. The socket of `unix:PATH` has mode 0660.",
        ),
        key(
            "url",
            Text(HTTPS_ORIGIN),
            Derived("the `Host` of the request, with https if `[server.tls]` is set"),
            "The address under which callers reach this listener. `/.well-known/oauth-authorization-server` contains it. Set it \
             behind a proxy that has another name or ends TLS.",
        ),
        key(
            "audit_key",
            Text(SECRET),
            Conditional("at most one of `audit_key` and `audit_key_file`. Without both, each start makes a new key"),
            "The key of the hash of subjects in the audit log. With it, you can find one person's lines across restarts and \
             replicas.",
        ),
        key(
            "audit_key_file",
            Text(PATH),
            Conditional("at most one of `audit_key` and `audit_key_file`"),
            "The file that holds `audit_key`.",
        ),
        key(
            "audit",
            Choice(&["best-effort", "required"]),
            Default("\"best-effort\""),
            "With `required`, a token leaves only if the log's buffer accepts its audit line. Otherwise the answer is 503. With \
             `best-effort`, the token leaves, and `tokenmint_log_lines_dropped_total` counts the lost line.",
        ),
        key(
            "state_directory",
            Text(PATH),
            Derived("`tokenmint-UID` in the temporary folder"),
            "The folder that keeps the login budget across restarts. It must belong to the process's user, with mode 700. \
             Otherwise only memory counts the logins. The folder holds times and no secret.",
        ),
        table("tls", &TLS),
        table("public", &PUBLIC),
        table("ops", &OPS),
        table("limits", &LIMITS),
        table("signing", &SIGNING),
    ],
)
.with_rules(&[Rule::AtMostOne(&["audit_key", "audit_key_file"])]);

static TLS: TableSchema = TableSchema::new(
    "TLS 1.2 and 1.3 on this listener. Without this section, the listener has plain HTTP.",
    &[
        key(
            "certificate_file",
            Text(PATH),
            Required,
            "The PEM file of the certificate, followed by its chain.",
        ),
        key(
            "private_key_file",
            Text(PATH),
            Required,
            "The PEM file of the private key. It must be closed to other users, for example with mode 0600.",
        ),
        key(
            "client_ca_file",
            Text(PATH),
            Absent,
            "The PEM file of a certificate authority. With it, every client must present a certificate of this authority, even \
             one that has an API key. `client_san` maps the names in a certificate to callers.",
        ),
    ],
);

static PUBLIC: TableSchema = TableSchema::new(
    "A listener for the internet that serves only the JWKS. `[server]` still serves the JWKS too.",
    &[
        key(
            "listen",
            Text(ADDRESS),
            Required,
            "The address of this listener, in the forms of `server.listen`.",
        ),
        key(
            "url",
            Text(HTTPS_ORIGIN),
            Absent,
            "The address under which Salesforce reaches this listener. `doctor --online`, `sandbox` and `salesforce-metadata` \
             use it.",
        ),
        table("tls", &TLS),
    ],
);

static OPS: TableSchema = TableSchema::new(
    "A listener for operators, in plain HTTP. `/metrics`, `/livez`, `/readyz`, `/healthz` and `/status` move from `[server]` to it.",
    &[key(
        "listen",
        Text(ADDRESS),
        Required,
        "The address of this listener, in the forms of `server.listen`.",
    )],
);

static LIMITS: TableSchema = TableSchema::new(
    "Limits on requests, connections and memory.",
    &[
        key(
            "request_timeout",
            Duration { min: "1s", max: "5m" },
            Default("\"10s\""),
            "The longest time from a request's first byte to its answer. Half of it, at most 5 seconds, is for the body. A head that is \
             still incomplete then has its full 5 seconds.",
        ),
        key(
            "body",
            Size { min: 1 << 10, max: Some(1 << 20), reason: "" },
            Default("\"16 KiB\""),
            "The largest body of a request. The answer to a larger one is 413.",
        ),
        key(
            "connections",
            Count { max: None, reason: "" },
            Default("10000"),
            "The number of open connections of each listener. Beyond it, the connection that idled longest is closed.",
        ),
        key(
            "signing_queue",
            Count { max: None, reason: "" },
            Default("1024"),
            "The number of signatures that may wait for a core. Beyond it, or after a wait of 250 ms, the answer is 503 with \
             `Retry-After`.",
        ),
        key(
            "token_cache",
            Size { min: 1 << 16, max: None, reason: ": without a cache each request is a login" },
            Default("\"64 MiB\""),
            "The memory for cached access tokens.",
        ),
        key(
            "remint_burst",
            Count { max: Some(1_000_000), reason: "" },
            Default("120"),
            "The number of tokens at once for one subject of a profile or bundle, for one caller. Beyond it, the answer is 429. \
             This stops a page that requests tokens in a loop because Salesforce rejects them.",
        ),
        key(
            "remints_per_minute",
            Count { max: Some(1_000_000), reason: "" },
            Default("120"),
            "The number of tokens each minute for one subject of a profile or bundle, for one caller. Beyond it, the answer is \
             429.",
        ),
    ],
);

static SIGNING: TableSchema = TableSchema::new(
    "Batch signing: several signatures at once by Intel's crypto_mb. See [Batch signing](../signing.md).",
    &[
        key(
            "batch",
            Choice(&["auto", "off", "required"]),
            Default("\"auto\""),
            "With `auto`, tokenmint signs in batches if `library` is given and the CPU allows it. With `off` it never does. With \
             `required` it doesn't start without them.",
        ),
        key(
            "library",
            Text(PATH),
            Absent,
            "The path of `libcrypto_mb.so.13`. Without it nothing is loaded, and signatures are made one at a time.",
        ),
    ],
);

pub(super) static CACHE: TableSchema =
    TableSchema::new("State that replicas share.", &[table("redis", &REDIS)]);

static REDIS: TableSchema = TableSchema::new(
    "A Redis (6.2 or later) or Valkey server that all replicas use for access tokens and the login budget. See \
     [Access tokens](../operate/access-tokens.md). Without this section, each replica has its own.",
    &[
        key(
            "url",
            Text(REDIS_URL),
            Required,
            "The server, as `rediss://[USER@]HOST[:PORT][/DATABASE]`. `redis://` is accepted only for loopback. The default port \
             is 6379.",
        ),
        key(
            "key",
            Text(SECRET),
            Conditional("exactly one of `key` and `key_file`"),
            "32 random bytes in hex or base64, the same on all replicas. They encrypt the entries. `openssl rand -hex 32` makes \
             them.",
        ),
        key("key_file", Text(PATH), Conditional("exactly one of `key` and `key_file`"), "The file that holds `key`."),
        key(
            "password",
            Text(SECRET),
            Conditional("at most one of `password` and `password_file`"),
            "The server's password.",
        ),
        key(
            "password_file",
            Text(PATH),
            Conditional("at most one of `password` and `password_file`"),
            "The file that holds `password`.",
        ),
        key(
            "timeout",
            Duration { min: "1ms", max: "5s" },
            Default("\"50ms\""),
            "The longest wait for an answer of the server.",
        ),
    ],
)
.with_rules(&[Rule::ExactlyOne(&["key", "key_file"]), Rule::AtMostOne(&["password", "password_file"])]);
