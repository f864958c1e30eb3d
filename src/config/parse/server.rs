//! Parses `[server]`: listeners, TLS, limits and signing.

use std::time::Duration;

use super::super::section::{Section, parse_byte_count, parse_count, parse_duration, parse_string};
use super::super::{
    AuditLogMode, BatchMode, HttpsUrl, Limits, ListenAddress, PublicListenerConfig, RateLimit, ServerConfig,
    SigningConfig, TlsConfig,
};
use super::{InvalidSection, MINUTE, check_range, parse_count_to_million};

pub(super) fn parse_server(section: Option<&Section<'_>>) -> Option<ServerConfig> {
    let Some(section) = section else {
        return Some(ServerConfig {
            listen: ListenAddress::default(),
            tls: None,
            public: None,
            ops: None,
            limits: default_limits(),
            signing: SigningConfig { batch: BatchMode::Auto, library: None },
            audit_key: None,
            audit: AuditLogMode::BestEffort,
            state_directory: None,
        });
    };
    let listen = parse_listen(section).or_else(|| (!section.has("listen")).then(ListenAddress::default));
    let tls = section.section("tls").map(|tls| parse_tls(&tls).ok_or(InvalidSection)).transpose();
    let public = section.section("public").map(|public| -> Result<PublicListenerConfig, InvalidSection> {
        let listen = parse_required_listen(&public);
        let url = public.optional("url", |node| {
            let url = HttpsUrl::parse(&parse_string(node)?)?;
            if url.is_origin() {
                Ok(url)
            } else {
                Err("must have no path: the JWKS is at /keysets/…".to_owned())
            }
        });
        let tls = public.section("tls").map(|tls| parse_tls(&tls).ok_or(InvalidSection)).transpose();
        Ok(PublicListenerConfig { listen: listen.ok_or(InvalidSection)?, url, tls: tls? })
    });
    let public = public.transpose();
    let ops = section.section("ops").map(|ops| parse_required_listen(&ops).ok_or(InvalidSection)).transpose();
    let limits = section.section("limits").map_or_else(default_limits, |limits| parse_limits(&limits));
    let signing = section
        .section("signing")
        .map_or(SigningConfig { batch: BatchMode::Auto, library: None }, |signing| parse_signing(&signing));
    let audit_key = section.secret("audit_key", "audit_key_file");
    let audit = section.optional("audit", |node| match parse_string(node)?.as_str() {
        "best-effort" => Ok(AuditLogMode::BestEffort),
        "required" => Ok(AuditLogMode::Required),
        _ => Err(r#"must be "best-effort" or "required""#.to_owned()),
    });
    let state_directory = section.path("state_directory");

    let server = ServerConfig {
        listen: listen?,
        tls: tls.ok()?,
        public: public.ok()?,
        ops: ops.ok()?,
        limits,
        signing,
        audit_key,
        audit: audit.unwrap_or(AuditLogMode::BestEffort),
        state_directory,
    };
    let public = server.public.as_ref().map(|public| &public.listen);
    let both = [(public, "public"), (server.ops.as_ref(), "ops")];
    for (other, name) in both {
        if other == Some(&server.listen) && !is_ephemeral(&server.listen) {
            section.problem(name, "has the same address as [server]: give it an address of its own");
        }
    }
    if public.is_some() && public == server.ops.as_ref() && public.is_some_and(|l| !is_ephemeral(l)) {
        section.problem("ops", "has the same address as [server.public]: metrics must not face the internet");
    }
    Some(server)
}

const fn is_ephemeral(listen: &ListenAddress) -> bool {
    matches!(listen, ListenAddress::Tcp(address) if address.port() == 0)
}

fn parse_required_listen(section: &Section<'_>) -> Option<ListenAddress> {
    if !section.has("listen") {
        section.required("listen", parse_string, r#"where to listen, for example "127.0.0.1:9090""#);
        return None;
    }
    parse_listen(section)
}

fn parse_listen(section: &Section<'_>) -> Option<ListenAddress> {
    let written = section.optional("listen", parse_string)?;
    let listen = ListenAddress::parse(&written, &section.diagnostics().base);
    listen.map_err(|message| section.problem("listen", message)).ok()
}

fn parse_tls(section: &Section<'_>) -> Option<TlsConfig> {
    let certificate_file = section.path("certificate_file");
    let private_key_file = section.path("private_key_file");
    let client_ca_file = section.path("client_ca_file");
    for name in ["certificate_file", "private_key_file"] {
        if !section.has(name) {
            section.problem(name, "is missing: TLS needs a certificate and its private key, both PEM files");
        }
    }
    Some(TlsConfig {
        certificate_file: certificate_file?,
        private_key_file: private_key_file?,
        client_ca_file,
    })
}

const fn default_limits() -> Limits {
    Limits {
        request_timeout: Duration::from_secs(10),
        body: 16 << 10,
        connections: 10_000,
        signing_queue: 1024,
        token_cache: 64 << 20,
        // Enough for a person with a hundred tabs that all load at once, and again each minute.
        remint_rate: RateLimit { requests: 120, window: MINUTE, burst: 120 },
    }
}

fn parse_limits(section: &Section<'_>) -> Limits {
    let default = default_limits();
    Limits {
        request_timeout: section
            .optional("request_timeout", |node| check_range(parse_duration(node)?, 1, 300, "1s", "5m"))
            .unwrap_or(default.request_timeout),
        body: section
            .optional("body", |node| match parse_byte_count(node)? {
                size @ 1024..=1_048_576 => Ok(size),
                _ => Err("must be between 1 KiB and 1 MiB".to_owned()),
            })
            .unwrap_or(default.body),
        connections: section.optional("connections", parse_count).unwrap_or(default.connections),
        signing_queue: section.optional("signing_queue", parse_count).unwrap_or(default.signing_queue),
        remint_rate: RateLimit {
            requests: section
                .optional("remints_per_minute", parse_count_to_million)
                .unwrap_or(default.remint_rate.requests),
            window: MINUTE,
            burst: section
                .optional("remint_burst", parse_count_to_million)
                .unwrap_or(default.remint_rate.burst),
        },
        // Below 64 KiB, the cache would hold so few tokens that requests become logins.
        token_cache: section
            .optional("token_cache", |node| match parse_byte_count(node)? {
                size @ 65_536.. => Ok(size),
                _ => Err("must be at least 64 KiB: without a cache each request is a login".to_owned()),
            })
            .unwrap_or(default.token_cache),
    }
}

fn parse_signing(section: &Section<'_>) -> SigningConfig {
    let batch = section.optional("batch", |node| match parse_string(node)?.as_str() {
        "auto" => Ok(BatchMode::Auto),
        "off" => Ok(BatchMode::Off),
        "required" => Ok(BatchMode::Required),
        _ => Err(r#"must be "auto", "off" or "required""#.to_owned()),
    });
    let library = section.path("library");
    if batch == Some(BatchMode::Required) && !section.has("library") {
        section.problem("library", "is missing, and `batch` is \"required\": the path of libcrypto_mb.so.13");
    }
    SigningConfig { batch: batch.unwrap_or(BatchMode::Auto), library }
}
