//! Certificates by openssl, and clients that trust and show them.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Workspace;

/// A certificate of `authority`, which is made where there is none, for the host of the tests.
pub fn certificates(workspace: &Workspace, authority: &str, name: &str) {
    certified(workspace, authority, name, "DNS:localhost,IP:127.0.0.1");
}

/// As `certificates`, for these names; `NAME.both` holds key and certificate.
pub fn certified(workspace: &Workspace, authority: &str, name: &str, san: &str) {
    let script = format!(
        "[ -f {authority}.key ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={authority} \
            -keyout {authority}.key -out {authority}.crt
         openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr
         printf 'subjectAltName={san}' > {name}.ext
         openssl x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 30 \
            -extfile {name}.ext -out {name}.crt && cat {name}.key {name}.crt > {name}.both && chmod 600 *.key"
    );
    let made =
        Command::new("bash").args(["-ec", &script]).current_dir(workspace.path("")).output().expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Trusts `ca.crt`, and shows the certificate of `identity`.
pub fn client(workspace: &Workspace, identity: Option<&str>) -> reqwest::Client {
    let read = |name: &str| std::fs::read(workspace.path(name)).expect(name);
    let root = reqwest::Certificate::from_pem(&read("ca.crt")).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([root]);
    let builder = identity.into_iter().fold(builder, |builder, name| {
        builder.identity(reqwest::Identity::from_pem(&read(name)).expect("PEM"))
    });
    builder.build().expect("a client")
}

/// A certificate of a new authority for this host that is valid for so long; `NAME.both` holds key and certificate.
#[expect(clippy::disallowed_methods, reason = "TLS goes by the host's clock")]
pub fn short_lived(workspace: &Workspace, authority: &str, name: &str, life: Duration) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no name");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    workspace.write(&format!("{authority}.crt"), &ca_certificate.pem());
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.not_after = time::OffsetDateTime::now_utc() + life;
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    workspace.write_key(&format!("{name}.both"), &format!("{}{}", key.serialize_pem(), certificate.pem()));
}

/// Trusts `ca.crt`, shows the certificate of `identity`, and resumes its sessions.
pub fn connector(workspace: &Workspace, identity: Option<&str>) -> TlsConnector {
    let read = |name: &str| std::fs::read(workspace.path(name)).expect(name);
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(&read("ca.crt")).expect("PEM");
    roots.add(root).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let both = read(identity);
            let key = PrivateKeyDer::from_pem_slice(&both).expect("a key");
            let certificate = CertificateDer::from_pem_slice(&both).expect("a certificate");
            config.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
    };
    TlsConnector::from(Arc::new(config))
}

pub async fn handshake(
    workspace: &Workspace,
    stream: TcpStream,
    identity: Option<&str>,
) -> TlsStream<TcpStream> {
    let host = "localhost".try_into().expect("a name");
    connector(workspace, identity).connect(host, stream).await.expect("TLS")
}

pub async fn tls_stream(
    workspace: &Workspace,
    address: &str,
    identity: Option<&str>,
) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("connected");
    handshake(workspace, stream, identity).await
}
