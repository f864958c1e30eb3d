//! `[server]`: where to listen, TLS, limits, signing.

use std::time::Duration;

use super::super::section::{Section, byte_count, count, duration, text};
use super::super::{AuditLog, Batch, HttpsUrl, Limits, Listen, Pace, Public, Server, Signing, Tls};
use super::{MINUTE, Wrong, small_count, within};

pub(super) fn server(section: Option<&Section<'_>>) -> Option<Server> {
    let Some(section) = section else {
        return Some(Server {
            listen: Listen::default(),
            tls: None,
            public: None,
            ops: None,
            limits: default_limits(),
            signing: Signing { batch: Batch::Auto, library: None },
            audit_key: None,
            audit: AuditLog::BestEffort,
            state_directory: None,
        });
    };
    let listen = listen(section).or_else(|| (!section.has("listen")).then(Listen::default));
    let tls = section.section("tls").map(|tls| self::tls(&tls).ok_or(Wrong)).transpose();
    let public = section.section("public").map(|public| -> Result<Public, Wrong> {
        let listen = required_listen(&public);
        let url = public.optional("url", |node| {
            let url = HttpsUrl::parse(&text(node)?)?;
            if url.is_origin() {
                Ok(url)
            } else {
                Err("must have no path: the JWKS is at /keysets/…".to_owned())
            }
        });
        let tls = public.section("tls").map(|tls| self::tls(&tls).ok_or(Wrong)).transpose();
        Ok(Public { listen: listen.ok_or(Wrong)?, url, tls: tls? })
    });
    let public = public.transpose();
    let ops = section.section("ops").map(|ops| required_listen(&ops).ok_or(Wrong)).transpose();
    let limits = section.section("limits").map_or_else(default_limits, |limits| self::limits(&limits));
    let signing = section
        .section("signing")
        .map_or(Signing { batch: Batch::Auto, library: None }, |signing| self::signing(&signing));
    let audit_key = section.secret("audit_key", "audit_key_file");
    let audit = section.optional("audit", |node| match text(node)?.as_str() {
        "best-effort" => Ok(AuditLog::BestEffort),
        "required" => Ok(AuditLog::Required),
        _ => Err(r#"must be "best-effort" or "required""#.to_owned()),
    });
    let state_directory = section.path("state_directory");

    let server = Server {
        listen: listen?,
        tls: tls.ok()?,
        public: public.ok()?,
        ops: ops.ok()?,
        limits,
        signing,
        audit_key,
        audit: audit.unwrap_or(AuditLog::BestEffort),
        state_directory,
    };
    let public = server.public.as_ref().map(|public| &public.listen);
    let both = [(public, "public"), (server.ops.as_ref(), "ops")];
    for (other, name) in both {
        if other == Some(&server.listen) && !takes_any_port(&server.listen) {
            section.problem(name, "listens where [server] does; give it an address of its own");
        }
    }
    if public.is_some() && public == server.ops.as_ref() && public.is_some_and(|l| !takes_any_port(l)) {
        section.problem("ops", "listens where [server.public] does; metrics must not face the internet");
    }
    Some(server)
}

const fn takes_any_port(listen: &Listen) -> bool {
    matches!(listen, Listen::Tcp(address) if address.port() == 0)
}

fn required_listen(section: &Section<'_>) -> Option<Listen> {
    if !section.has("listen") {
        section.required("listen", text, r#"where to listen, as "127.0.0.1:9090""#);
        return None;
    }
    listen(section)
}

fn listen(section: &Section<'_>) -> Option<Listen> {
    let written = section.optional("listen", text)?;
    let listen = Listen::parse(&written, &section.findings().base);
    listen.map_err(|message| section.problem("listen", message)).ok()
}

fn tls(section: &Section<'_>) -> Option<Tls> {
    let certificate_file = section.path("certificate_file");
    let private_key_file = section.path("private_key_file");
    let client_ca_file = section.path("client_ca_file");
    for name in ["certificate_file", "private_key_file"] {
        if !section.has(name) {
            section.problem(name, "is missing: TLS needs a certificate and its private key, both PEM files");
        }
    }
    Some(Tls { certificate_file: certificate_file?, private_key_file: private_key_file?, client_ca_file })
}

const fn default_limits() -> Limits {
    Limits {
        request_timeout: Duration::from_secs(10),
        body: 16 << 10,
        connections: 10_000,
        signing_queue: 1024,
        token_cache: 64 << 20,
        // A person with a hundred tabs, all loaded at once and then again each minute.
        remints: Pace { requests: 120, window: MINUTE, burst: 120 },
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let default = default_limits();
    Limits {
        request_timeout: section
            .optional("request_timeout", |node| within(duration(node)?, 1, 300, "1s", "5m"))
            .unwrap_or(default.request_timeout),
        body: section
            .optional("body", |node| match byte_count(node)? {
                size @ 1024..=1_048_576 => Ok(size),
                _ => Err("must be between 1 KiB and 1 MiB".to_owned()),
            })
            .unwrap_or(default.body),
        connections: section.optional("connections", count).unwrap_or(default.connections),
        signing_queue: section.optional("signing_queue", count).unwrap_or(default.signing_queue),
        remints: Pace {
            requests: section.optional("remints_per_minute", small_count).unwrap_or(default.remints.requests),
            window: MINUTE,
            burst: section.optional("remint_burst", small_count).unwrap_or(default.remints.burst),
        },
        // Less holds too few tokens: requests would become logins.
        token_cache: section
            .optional("token_cache", |node| match byte_count(node)? {
                size @ 65_536.. => Ok(size),
                _ => Err("must be at least 64 KiB: without a cache each request is a login".to_owned()),
            })
            .unwrap_or(default.token_cache),
    }
}

fn signing(section: &Section<'_>) -> Signing {
    let batch = section.optional("batch", |node| match text(node)?.as_str() {
        "auto" => Ok(Batch::Auto),
        "off" => Ok(Batch::Off),
        "required" => Ok(Batch::Required),
        _ => Err(r#"must be "auto", "off" or "required""#.to_owned()),
    });
    let library = section.path("library");
    if batch == Some(Batch::Required) && !section.has("library") {
        section.problem("library", "is missing, and `batch` is \"required\": the path of libcrypto_mb.so.13");
    }
    Signing { batch: batch.unwrap_or(Batch::Auto), library }
}
