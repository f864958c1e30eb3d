//! `tokenmint healthcheck`: asks the running service for `/livez`, for images without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Context, Failure, say};
use crate::app::tls::certificates;
use crate::config::{Config, Listen, Tls};

/// Ask the running service whether it is alive
///
/// Reads where it listens from the configuration. Ends with 0 if it answers, with 1 if not.
#[derive(Args)]
#[command(after_help = "Example: HEALTHCHECK CMD [\"/usr/local/bin/tokenmint\", \"healthcheck\"]\n\
                        From a shell: tokenmint healthcheck --config /etc/tokenmint/tokenmint.toml")]
pub(super) struct Healthcheck {
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
}

impl Healthcheck {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.config()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
        let asked = async { tokio::time::timeout(Duration::from_secs(self.timeout), ask(&config)).await };
        match runtime.block_on(asked) {
            Ok(Ok(status)) if status.is_success() => {
                say("ok");
                Ok(())
            }
            Ok(Ok(status)) => Err(Failure::Failed(format!("/livez answered {status}"))),
            Ok(Err(error)) => Err(Failure::Failed(format!("/livez can't be asked: {error}"))),
            Err(_) => Err(Failure::Failed(format!("/livez did not answer within {} s", self.timeout))),
        }
    }
}

type Error = Box<dyn std::error::Error>;

/// `/livez` is on the ops listener where there is one.
async fn ask(config: &Config) -> Result<hyper::StatusCode, Error> {
    let server = &config.server;
    let (listen, tls) = match &server.ops {
        Some(ops) => (ops, None),
        None => (&server.listen, server.tls.as_ref()),
    };
    match listen {
        Listen::Unix(path) => over(UnixStream::connect(path).await?, tls).await,
        Listen::Tcp(address) => over(TcpStream::connect(reachable(*address)).await?, tls).await,
    }
}

/// Who listens everywhere is reached on loopback.
const fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn over<S>(stream: S, tls: Option<&Tls>) -> Result<hyper::StatusCode, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return get(stream).await };
    if tls.client_ca_file.is_some() {
        return Err("[server.tls] asks for a client certificate, which healthcheck has none of; \
                    move health to a listener of its own with [server.ops]"
            .into());
    }
    let own = certificates(&tls.certificate_file)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OwnCertificate { own, provider }))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    get(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await
}

async fn get<S>(stream: S) -> Result<hyper::StatusCode, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/livez").header("Host", "localhost").body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}

/// Trusts exactly the certificate that the service is configured with: its name is the public one, which
/// loopback doesn't have.
#[derive(Debug)]
struct OwnCertificate {
    own: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.first() == Some(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate answers than the configured one".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
