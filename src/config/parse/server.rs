//! Parses `[server]`: listeners, TLS, limits and signing.

use super::super::section::Section;
use super::super::values::parse_string;
use super::super::{
    AuditLogMode, BatchMode, HttpsOrLoopbackUrl, Limits, ListenAddress, PublicListenerConfig, RateLimit,
    ServerConfig, SigningConfig, TlsConfig,
};
use super::{InvalidSection, MINUTE, saturating_u32};

pub(super) fn parse_server(section: &Section<'_>) -> Option<ServerConfig> {
    let listen = parse_listen(section).or_else(|| (!section.has("listen")).then(ListenAddress::default));
    let url = parse_origin(section, "the token endpoint is at /oauth2/token");
    let tls = section.section("tls").map(|tls| parse_tls(&tls).ok_or(InvalidSection)).transpose();
    let public = section.section("public").map(|public| -> Result<PublicListenerConfig, InvalidSection> {
        let listen = parse_required_listen(&public);
        let url = parse_origin(&public, "the JWKS is at /keysets/…");
        let tls = public.section("tls").map(|tls| parse_tls(&tls).ok_or(InvalidSection)).transpose();
        Ok(PublicListenerConfig { listen: listen.ok_or(InvalidSection)?, url, tls: tls? })
    });
    let public = public.transpose();
    let ops = section.section("ops").map(|ops| parse_required_listen(&ops).ok_or(InvalidSection)).transpose();
    let limits = section.section_or_empty("limits").map(|limits| parse_limits(&limits));
    let signing = section.section_or_empty("signing").map(|signing| parse_signing(&signing));
    let audit_key = section.secret("audit_key", "audit_key_file");
    let audit = match section.choice_or_default("audit", "") {
        "required" => AuditLogMode::Required,
        _ => AuditLogMode::BestEffort,
    };
    let state_directory = section.path("state_directory");

    let server = ServerConfig {
        listen: listen?,
        url,
        tls: tls.ok()?,
        public: public.ok()?,
        ops: ops.ok()?,
        limits: limits?,
        signing: signing?,
        audit_key,
        audit,
        state_directory,
    };
    let public = server.public.as_ref().map(|public| &public.listen);
    let both = [(public, "public"), (server.ops.as_ref(), "ops")];
    for (other, name) in both {
        if other.is_some_and(|other| other.overlaps(&server.listen)) {
            section.problem(
                name,
                "has the same address as [server], or one address covers the other: give it an address of its own",
            );
        }
    }
    if public.zip(server.ops.as_ref()).is_some_and(|(public, ops)| public.overlaps(ops)) {
        section.problem(
            "ops",
            "has the same address as [server.public], or one address covers the other: metrics must not face the \
             internet",
        );
    }
    Some(server)
}

/// Parses the `url` of a listener. `paths` says where its paths are.
fn parse_origin(section: &Section<'_>, paths: &str) -> Option<HttpsOrLoopbackUrl> {
    section.optional("url", |node| {
        let url = HttpsOrLoopbackUrl::parse(&parse_string(node)?)?;
        if url.is_origin() { Ok(url) } else { Err(format!("must have no path and no query: {paths}")) }
    })
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

fn parse_limits(section: &Section<'_>) -> Limits {
    Limits {
        request_timeout: section.duration_or_default("request_timeout"),
        body: section.size_or_default("body"),
        connections: section.count_or_default("connections"),
        signing_queue: section.count_or_default("signing_queue"),
        // The default is enough for a person with a hundred tabs that all load at once, and again each minute.
        remint_rate: RateLimit {
            requests: saturating_u32(section.count_or_default("remints_per_minute")),
            window: MINUTE,
            burst: saturating_u32(section.count_or_default("remint_burst")),
        },
        // Below 64 KiB, the cache would hold so few tokens that requests become logins.
        token_cache: section.size_or_default("token_cache"),
    }
}

fn parse_signing(section: &Section<'_>) -> SigningConfig {
    let batch = match section.choice_or_default("batch", "") {
        "off" => BatchMode::Off,
        "required" => BatchMode::Required,
        _ => BatchMode::Auto,
    };
    let library = section.path("library");
    if batch == BatchMode::Required && !section.has("library") {
        section.problem("library", "is missing, and `batch` is \"required\": the path of libcrypto_mb.so.13");
    }
    SigningConfig { batch, library }
}
