//! TLS on a listener: 1.2 and 1.3, HTTP/1.1 inside, and client certificates where an authority for them is set.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, crypto};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::UnixTime;
use crate::config::{ClientSan, Problem, TlsConfig, UnverifiedPath, WarningCode};
use crate::files::{folder_of, only_ours_replaces_files_in};
use crate::keys::{self, KeyOfListener, Oddities, file};

/// TLS of one listener.
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// The certificate that clients see, and those between it and its authority.
    chain: Vec<CertificateDer<'static>>,
    /// Why clients refuse that certificate at the time that it was loaded.
    refused: Option<Problem>,
    /// What is wrong with the authority of clients' certificates at that time.
    authority: Option<Problem>,
    /// What is odd about how the files are written.
    odd: Vec<Problem>,
}

impl ServerTls {
    /// What is allowed but unwise.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.refused.iter().chain(&self.authority).chain(&self.odd)
    }
}

/// The certificate chains of the minting and of the public listener.
pub type Chains = [Option<Vec<CertificateDer<'static>>>; 2];

pub fn chains(all: [&Option<ServerTls>; 2]) -> Chains {
    all.map(|tls| tls.as_ref().map(|tls| tls.chain.clone()))
}

/// Certificates that clients refuse and that would take the place of others. One that has run out while it was in use
/// stays, so that it doesn't keep other changes from being taken over.
pub fn worse_than(in_force: &Chains, all: [&Option<ServerTls>; 2]) -> Vec<Problem> {
    let news = in_force.iter().zip(all).filter_map(|(chain, tls)| Some((chain, tls.as_ref()?)));
    let news = news.filter(|(chain, tls)| chain.as_ref() != Some(&tls.chain));
    news.filter_map(|(_, tls)| tls.refused.clone()).collect()
}

/// Reads the files of `[section.tls]`.
///
/// # Errors
/// Says which file is wrong, and how.
pub fn load(section: &str, tls: &TlsConfig, now: UnixTime) -> Result<ServerTls, Problem> {
    let problem = |field: &str, path: &UnverifiedPath, message: String| {
        Problem::new(format!("{section}.tls.{field}"), path, message)
    };
    let at_certificate = |message| problem("certificate_file", &tls.certificate_file, message);
    let at_key = |message| problem("private_key_file", &tls.private_key_file, message);

    let mut odd = Vec::new();
    let (chain, shape) = certificates(tls.certificate_file.as_path()).map_err(at_certificate)?;
    odd.extend(
        shape
            .warning()
            .map(|message| Problem { code: Some(WarningCode::CertificateForm), ..at_certificate(message) }),
    );
    let refused = out_of_date(&chain, now).map_err(at_certificate)?.map(|message| Problem {
        code: Some(WarningCode::ListenerCertificate),
        ..at_certificate(format!("{message}, so clients refuse it: renew it"))
    });
    let key = file::read_private(tls.private_key_file.as_path()).map_err(at_key)?;
    // Comes second: the path of a file that isn't there may be a secret, and is not shown.
    let folder = folder_of(tls.private_key_file.as_path());
    only_ours_replaces_files_in(folder).map_err(|error| {
        Problem::new(format!("{section}.tls.private_key_file"), folder.display(), error.to_string())
    })?;
    let key = keys::key_of_listener(&key).map_err(|why| at_key(why.to_string()))?;
    odd.extend(
        key.oddities.warning().map(|message| Problem { code: Some(WarningCode::KeyForm), ..at_key(message) }),
    );
    let certified = certified_key(chain.clone(), &key).map_err(|error| match error {
        NoKey::Unusable(error) => at_key(format!("holds a private key that can't be used: {error}")),
        NoKey::Stranger(error) => at_certificate(format!(
            "doesn't go with the private key: {error}; the first in the file must be this server's own certificate"
        )),
        NoKey::Unreadable(error) => at_certificate(format!(
            "can't be used ({error}): make one of X.509 version 3, as `openssl req -x509` does"
        )),
    })?;
    let mut authority = None;
    let verifier = match &tls.client_ca_file {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let at_authority = |message| problem("client_ca_file", path, message);
            let (certificates, shape) = certificates(path.as_path()).map_err(at_authority)?;
            odd.extend(shape.warning().map(|message| Problem {
                code: Some(WarningCode::CertificateForm),
                ..at_authority(message)
            }));
            authority = out_of_date(&certificates, now).map_err(at_authority)?.map(|message| Problem {
                code: Some(WarningCode::ClientAuthority),
                ..at_authority(format!(
                    "{message}; clients whose certificates it signed are let in all the same"
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
        // A session that is resumed skips the client's certificate, which may have expired meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(ServerTls { config: Arc::new(config), chain, refused, authority, odd })
}

/// Says which of these certificates isn't valid now.
///
/// # Errors
/// Names an entry that is no certificate.
fn out_of_date(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Option<String>, String> {
    for (at, certificate) in chain.iter().enumerate() {
        let which = if at == 0 { String::new() } else { format!("its certificate number {} ", at + 1) };
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Err(format!("{which}holds something else than a certificate"));
        };
        let [begin, end] = [certificate.validity().not_before, certificate.validity().not_after]
            .map(|time| UnixTime::from_seconds(time.timestamp()));
        if end < now {
            return Ok(Some(format!("{which}expired at {end}")));
        }
        if now < begin {
            return Ok(Some(format!("{which}isn't valid before {begin}")));
        }
    }
    Ok(None)
}

enum NoKey {
    Unusable(rustls::Error),
    /// The certificate is another key's.
    Stranger(rustls::Error),
    /// The certificate says nothing of its key, as one of X.509 version 1.
    Unreadable(rustls::Error),
}

/// As rustls' own loader, but that no copy of the key's text or DER is left in memory.
fn certified_key(chain: Vec<CertificateDer<'static>>, key: &KeyOfListener) -> Result<CertifiedKey, NoKey> {
    let document = key.der.as_slice();
    let der = match key.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(document.into()),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(document.into()),
        _ => PrivateKeyDer::Pkcs8(document.into()),
    };
    let certified = CertifiedKey::new(chain, any_supported_type(&der).map_err(NoKey::Unusable)?);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error @ rustls::Error::InconsistentKeys(_)) => Err(NoKey::Stranger(error)),
        Err(error) => Err(NoKey::Unreadable(error)),
    }
}

/// What a client's certificate, already verified, says.
#[derive(Default)]
pub struct ClientCertificate {
    /// The names by which it can stand for a caller.
    pub names: Vec<ClientSan>,
    /// The last second in which all that the client sent beside it are valid too.
    pub not_after: Option<UnixTime>,
}

impl ClientCertificate {
    /// Reads what a client sent: its own certificate, and those between it and its authority.
    pub fn read(chain: &[CertificateDer<'_>], now: UnixTime) -> Self {
        let mut chain = chain.iter().map_while(|certificate| X509Certificate::from_der(certificate).ok());
        let Some((_, own)) = chain.next() else { return Self::default() };
        let end = |certificate: &X509Certificate<'_>| {
            UnixTime::from_seconds(certificate.validity().not_after.timestamp())
        };
        // One that has expired already wasn't needed: the handshake would have failed.
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

/// The certificates in a file, and what is odd about how they are written.
pub(crate) fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Oddities), String> {
    let pem = file::read_public(path)?;
    let (found, oddities) = keys::certificates_of_listener(&pem)?;
    Ok((found.into_iter().map(CertificateDer::from).collect(), oddities))
}

fn client_verifier(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        let is_no_authority = X509Certificate::from_der(&certificate).is_ok_and(|(_, certificate)| {
            certificate.basic_constraints().is_ok_and(|found| found.is_some_and(|found| !found.value.ca))
        });
        if is_no_authority {
            return Err("holds a certificate that is no authority's (CA:FALSE): give that of the authority that signs \
                        clients' certificates"
                .to_owned());
        }
        roots.add(certificate).map_err(|error| format!("holds an unusable certificate: {error}"))?;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| error.to_string())
}
