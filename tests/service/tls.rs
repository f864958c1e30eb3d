//! Certificates by openssl, and clients that trust and present them.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Workspace;

/// Makes a certificate of `authority` for the host of the tests, and the authority if it doesn't exist.
pub fn certificates(workspace: &Workspace, authority: &str, name: &str) {
    certified(workspace, authority, name, "DNS:localhost,IP:127.0.0.1");
}

/// Like `certificates`, for these names. `NAME.both` has key and certificate.
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

/// A client that trusts `ca.crt` and presents the certificate of `identity`.
pub fn client(workspace: &Workspace, identity: Option<&str>) -> reqwest::Client {
    let read = |name: &str| std::fs::read(workspace.path(name)).expect(name);
    let root = reqwest::Certificate::from_pem(&read("ca.crt")).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([root]);
    let builder = identity.into_iter().fold(builder, |builder, name| {
        builder.identity(reqwest::Identity::from_pem(&read(name)).expect("PEM"))
    });
    builder.build().expect("a client")
}

/// Makes a certificate of a new authority that is valid for `life`, with an intermediate certificate if that has a
/// lifetime. `NAME.both` has key and certificates.
#[expect(clippy::disallowed_methods, reason = "TLS goes by the host's clock")]
pub fn short_lived(
    workspace: &Workspace,
    authority: &str,
    name: &str,
    life: Duration,
    intermediate: Option<Duration>,
) {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let ca = |name: &str| {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no name");
        ca.distinguished_name.push(rcgen::DnType::CommonName, name);
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca
    };
    let (root, root_key) = (ca("root"), key());
    workspace.write(&format!("{authority}.crt"), &root.self_signed(&root_key).expect("a certificate").pem());
    let mut issuer = rcgen::Issuer::new(root, root_key);
    let mut chain = String::new();
    if let Some(life) = intermediate {
        let (mut between, between_key) = (ca("intermediate"), key());
        between.not_after = time::OffsetDateTime::now_utc() + life;
        chain = between.signed_by(&between_key, &issuer).expect("a certificate").pem();
        issuer = rcgen::Issuer::new(between, between_key);
    }
    let own_key = key();
    let mut own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    own.not_after = time::OffsetDateTime::now_utc() + life;
    let certificate = own.signed_by(&own_key, &issuer).expect("a certificate").pem();
    workspace.write_key(&format!("{name}.both"), &format!("{}{certificate}{chain}", own_key.serialize_pem()));
}

/// A client that trusts `ca.crt`, presents the certificate of `identity`, and resumes its sessions.
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
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&both).collect();
            config.with_client_auth_cert(chain.expect("certificates"), key).expect("a pair")
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
