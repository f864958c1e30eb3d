//! TLS of the listeners: loads certificate, private key and client authority (mutual TLS) into a rustls configuration for TLS
//! 1.2 and 1.3 with HTTP/1.1.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, crypto};
use url::{Host, Url};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::UnixTime;
use crate::config::{ClientSan, Problem, TlsConfig, UnverifiedPath, WarningCode};
use crate::files::{parent_directory, reject_replaceable_by_others};
use crate::keys::{self, ListenerKey, PemQuirks, key_file};

/// The loaded TLS configuration of one listener, with its warnings.
pub(crate) struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// The server certificate, followed by its intermediate certificates.
    chain: Vec<CertificateDer<'static>>,
    /// Set if a certificate of the chain was outside of its validity when it was loaded.
    invalid_chain: Option<Problem>,
    /// Set if a certificate of the client authority was outside of its validity when it was loaded.
    authority: Option<Problem>,
    /// Deviations from the usual format of the files.
    odd: Vec<Problem>,
}

impl ServerTls {
    /// Problems that don't prevent the use of this configuration.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.invalid_chain.iter().chain(&self.authority).chain(&self.odd)
    }
}

/// The certificate chains of the minting and of the public listener.
pub(crate) type CertificateChains = [Option<Vec<CertificateDer<'static>>>; 2];

/// The certificate chains of `all`, to compare them at the next reload.
pub(crate) fn certificate_chains(all: [&Option<ServerTls>; 2]) -> CertificateChains {
    all.map(|tls| tls.as_ref().map(|tls| tls.chain.clone()))
}

/// The problems of changed certificate chains that clients would reject, because they are expired or not yet valid.
///
/// An unchanged chain that has expired while in use isn't a problem here: it must not block other changes.
pub(crate) fn newly_invalid_chains(
    in_force: &CertificateChains,
    all: [&Option<ServerTls>; 2],
) -> Vec<Problem> {
    let news = in_force.iter().zip(all).filter_map(|(chain, tls)| Some((chain, tls.as_ref()?)));
    let news = news.filter(|(chain, tls)| chain.as_ref() != Some(&tls.chain));
    news.filter_map(|(_, tls)| tls.invalid_chain.clone()).collect()
}

/// A warning if the certificate of the public listener isn't valid for the host of its `url` (RFC 9525). Salesforce then can't
/// fetch the keys from the listener itself.
pub(crate) fn host_mismatch(tls: &TlsConfig, loaded: &ServerTls, url: &Url) -> Option<Problem> {
    let host = url.host().filter(|_| url.scheme() == "https")?;
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name).ok()?,
        Host::Ipv4(address) => ServerName::from(IpAddr::from(address)),
        Host::Ipv6(address) => ServerName::from(IpAddr::from(address)),
    };
    let certificate = ParsedCertificate::try_from(loaded.chain.first()?).ok()?;
    verify_server_name(&certificate, &name).err()?;
    let message = format!(
        "isn't valid for `{host}`, the host of `url`, so Salesforce can't fetch the keys here: use a certificate with this name. \
         Ignore this warning if a proxy with a certificate of its own receives the requests"
    );
    let field = "server.public.tls.certificate_file";
    Some(Problem::warning(WarningCode::ListenerHost, field, &tls.certificate_file, message))
}

/// Loads the files of `[section.tls]`.
///
/// # Errors
/// Says which file is invalid, and why.
pub(crate) fn load(section: &str, tls: &TlsConfig, now: UnixTime) -> Result<ServerTls, Problem> {
    let problem = |field: &str, path: &UnverifiedPath, message: String| {
        Problem::new(format!("{section}.tls.{field}"), path, message)
    };
    let at_certificate = |message| problem("certificate_file", &tls.certificate_file, message);
    let at_key = |message| problem("private_key_file", &tls.private_key_file, message);

    let mut odd = Vec::new();
    let (chain, shape) = load_certificates(tls.certificate_file.as_path()).map_err(at_certificate)?;
    odd.extend(
        shape
            .warning()
            .map(|message| Problem { code: Some(WarningCode::CertificateForm), ..at_certificate(message) }),
    );
    let invalid_chain = validity_problem(&chain, now).map_err(at_certificate)?.map(|message| Problem {
        code: Some(WarningCode::ListenerCertificate),
        ..at_certificate(format!("{}, so clients reject it: {}", message.fact, message.advice))
    });
    let key = key_file::read_private_key(tls.private_key_file.as_path()).map_err(at_key)?;
    // Checked only after the file was read. The path of a missing file may be a secret that was put in the wrong setting, and
    // must not be shown.
    let folder = parent_directory(tls.private_key_file.as_path());
    reject_replaceable_by_others(folder).map_err(|error| {
        Problem::new(format!("{section}.tls.private_key_file"), folder.display(), error.to_string())
    })?;
    let key = keys::parse_listener_key(&key).map_err(|why| at_key(why.to_string()))?;
    odd.extend(
        key.pem_quirks
            .warning()
            .map(|message| Problem { code: Some(WarningCode::KeyForm), ..at_key(message) }),
    );
    let certified = certified_key(chain.clone(), &key).map_err(|error| match error {
        CertifiedKeyError::UnusableKey(error) => at_key(format!("holds a private key that can't be used: {error}")),
        CertifiedKeyError::KeyMismatch => at_certificate(
            "doesn't match `private_key_file`: the two aren't a pair; the first certificate in the file must be this server's own"
                .to_owned(),
        ),
        CertifiedKeyError::UnreadableCertificate(error) => at_certificate(format!(
            "can't be used ({error}): create a certificate of X.509 version 3, for example with `openssl req -x509`"
        )),
    })?;
    let mut authority = None;
    let verifier = match &tls.client_ca_file {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let at_authority = |message| problem("client_ca_file", path, message);
            let (certificates, shape) = load_certificates(path.as_path()).map_err(at_authority)?;
            odd.extend(shape.warning().map(|message| Problem {
                code: Some(WarningCode::CertificateForm),
                ..at_authority(message)
            }));
            authority = validity_problem(&certificates, now).map_err(at_authority)?.map(|message| Problem {
                code: Some(WarningCode::ClientAuthority),
                ..at_authority(format!(
                    "{}; clients with certificates that it signed are accepted all the same",
                    message.fact
                ))
            });
            client_verifier(certificates).map_err(at_authority)?
        }
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| at_certificate(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if tls.client_ca_file.is_some() {
        // No session resumption: it would skip the check of the client's certificate, which may have expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(ServerTls { config: Arc::new(config), chain, invalid_chain, authority, odd })
}

/// Which certificate is outside of its validity, and what to do.
struct ValidityProblem {
    fact: String,
    advice: &'static str,
}

/// Says which certificate of `chain` is the first that is expired or not yet valid, if any.
///
/// # Errors
/// An entry isn't a certificate.
fn validity_problem(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Option<ValidityProblem>, String> {
    for (at, certificate) in chain.iter().enumerate() {
        let which = if at == 0 { String::new() } else { format!("its certificate number {} ", at + 1) };
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Err(format!("{which}isn't a certificate"));
        };
        let [begin, end] = [certificate.validity().not_before, certificate.validity().not_after]
            .map(|time| UnixTime::from_seconds(time.timestamp()));
        if end < now {
            return Ok(Some(ValidityProblem {
                fact: format!("{which}expired at {end}"),
                advice: "renew it",
            }));
        }
        if now < begin {
            let advice = "check this host's clock, or wait until then";
            return Ok(Some(ValidityProblem { fact: format!("{which}isn't valid before {begin}"), advice }));
        }
    }
    Ok(None)
}

/// Why a certificate and a private key can't be used together.
enum CertifiedKeyError {
    UnusableKey(rustls::Error),
    /// The certificate has another public key.
    KeyMismatch,
    /// rustls can't parse the certificate, for example one of X.509 version 1.
    UnreadableCertificate(rustls::Error),
}

/// Combines certificate chain and private key like rustls' own loader, but leaves no copy of the key's DER in memory.
fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: &ListenerKey,
) -> Result<CertifiedKey, CertifiedKeyError> {
    let document = key.der.as_slice();
    let der = match key.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(document.into()),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(document.into()),
        _ => PrivateKeyDer::Pkcs8(document.into()),
    };
    let certified =
        CertifiedKey::new(chain, any_supported_type(&der).map_err(CertifiedKeyError::UnusableKey)?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertifiedKeyError::KeyMismatch),
        Err(error) => Err(CertifiedKeyError::UnreadableCertificate(error)),
    }
}

/// The identity in a verified client certificate.
#[derive(Default)]
pub(crate) struct ClientCertificate {
    /// The subject alternative names that can identify a caller: DNS names and URIs.
    pub(crate) names: Vec<ClientSan>,
    /// The earliest end of validity among the client's own certificate and the unexpired others that it sent.
    pub(crate) not_after: Option<UnixTime>,
}

impl ClientCertificate {
    /// Reads the certificates that a client sent: its own, then the intermediate ones.
    pub(crate) fn read(chain: &[CertificateDer<'_>], now: UnixTime) -> Self {
        let mut chain = chain.iter().map_while(|certificate| X509Certificate::from_der(certificate).ok());
        let Some((_, own)) = chain.next() else { return Self::default() };
        let end = |certificate: &X509Certificate<'_>| {
            UnixTime::from_seconds(certificate.validity().not_after.timestamp())
        };
        // An intermediate certificate that has already expired wasn't used: the handshake would have failed.
        let others = chain.map(|(_, other)| end(&other)).filter(|end| *end >= now);
        Self { names: client_names(&own), not_after: others.chain([end(&own)]).min() }
    }
}

fn client_names(certificate: &X509Certificate<'_>) -> Vec<ClientSan> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(ClientSan::dns(name)),
        GeneralName::URI(uri) => Some(ClientSan::Uri((*uri).to_owned())),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// Reads the certificates in a PEM file, and deviations from its usual format.
pub(crate) fn load_certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, PemQuirks), String> {
    let pem = key_file::read_certificate_text(path)?;
    let (found, pem_quirks) = keys::parse_listener_certificates(&pem)?;
    Ok((found.into_iter().map(CertificateDer::from).collect(), pem_quirks))
}

fn client_verifier(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        let is_no_authority = X509Certificate::from_der(&certificate).is_ok_and(|(_, certificate)| {
            certificate.basic_constraints().is_ok_and(|found| found.is_some_and(|found| !found.value.ca))
        });
        if is_no_authority {
            return Err("contains a certificate that isn't a CA's (CA:FALSE): use the certificate of the CA that signs the client \
                        certificates"
                .to_owned());
        }
        roots.add(certificate).map_err(|error| format!("contains an unusable certificate: {error}"))?;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| error.to_string())
}
