//! TLS on a listener: 1.2 and 1.3, HTTP/1.1 inside, and client certificates where an authority for them is set.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, crypto};
use secrecy::ExposeSecret as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::config::{ClientName, Problem, Tls};
use crate::keys::file;

/// Reads the files of `[section.tls]`.
///
/// # Errors
/// Says which file is wrong, and how.
pub fn load(section: &str, tls: &Tls) -> Result<Arc<ServerConfig>, Problem> {
    let problem = |field: &str, path: &Path, message: String| {
        Problem::new(format!("{section}.tls.{field}"), path.display(), message)
    };
    let at_certificate = |message| problem("certificate_file", &tls.certificate_file, message);
    let at_key = |message| problem("private_key_file", &tls.private_key_file, message);

    let chain = certificates(&tls.certificate_file).map_err(at_certificate)?;
    let key = file::read_private(&tls.private_key_file).map_err(at_key)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
        .map_err(|_| at_key("holds no private key in PEM form".to_owned()))?;
    let verifier = match &tls.client_ca_file {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => client_verifier(path).map_err(|message| problem("client_ca_file", path, message))?,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| at_certificate(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| at_certificate(format!("doesn't go with the private key: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The names by which a client's certificate, already verified, can stand for a caller.
pub fn client_names(certificate: &CertificateDer<'_>) -> Vec<ClientName> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(ClientName::dns(name)),
        GeneralName::URI(uri) => Some(ClientName::Uri((*uri).to_owned())),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = file::read_public(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("holds no certificate in PEM form".to_owned()),
    }
}

fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("holds an unusable certificate: {error}"))?;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| error.to_string())
}
