//! Asks a service that runs on this host what it has seen and done.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime as CertificateTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Context, Failure, PATIENCE, within};
use crate::app::discovery;
use crate::app::tls::load_certificates;
use crate::clock::UnixTime;
use crate::config::{DEFAULT_FILE, KeyId, Listen, Name, OpsAddress, OpsTls};

/// The metrics of ten thousand keys are smaller.
const LARGEST: usize = 32 << 20;
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a running service says of its keys.
pub(super) struct Seen(BTreeMap<(String, String), Key>);

#[derive(Default)]
struct Key {
    live_tokens: u64,
    fetched: BTreeMap<String, UnixTime>,
}

impl Seen {
    /// At most so many tokens that the key signed may live.
    pub fn live_tokens(&self, keyset: &Name, kid: &KeyId) -> u64 {
        self.key(keyset, kid).map_or(0, |key| key.live_tokens)
    }

    /// When each class of clients last fetched the key.
    pub fn fetched(&self, keyset: &Name, kid: &KeyId) -> BTreeMap<String, UnixTime> {
        self.key(keyset, kid).map(|key| key.fetched.clone()).unwrap_or_default()
    }

    fn key(&self, keyset: &Name, kid: &KeyId) -> Option<&Key> {
        self.0.get(&(keyset.to_string(), kid.to_string()))
    }

    /// From the text of `/metrics`.
    fn read(metrics: &str) -> Self {
        let mut keys: BTreeMap<(String, String), Key> = BTreeMap::new();
        for line in metrics.lines() {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let pairs = labels.split("\",").map(|pair| pair.trim_end_matches('"'));
                pairs.filter_map(|pair| pair.split_once("=\"")).find(|(label, _)| *label == name)
            };
            let (Some((_, keyset)), Some((_, kid))) = (label("keyset"), label("kid")) else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            #[expect(clippy::cast_possible_truncation, reason = "counts and dates are whole")]
            let value = value as i64;
            let key = keys.entry((keyset.to_owned(), kid.to_owned())).or_default();
            match (name, label("client")) {
                ("tokenmint_live_tokens", _) => key.live_tokens = u64::try_from(value).unwrap_or(0),
                ("tokenmint_key_fetched_timestamp_seconds", Some((_, client))) => {
                    key.fetched.insert(client.to_owned(), UnixTime::from_seconds(value));
                }
                _ => {}
            }
        }
        Self(keys)
    }
}

/// What a running service says of itself at `/status`.
#[derive(Deserialize)]
pub(super) struct Status {
    pub keysets: BTreeMap<String, KeysetStatus>,
    pub reload: ReloadStatus,
}

#[derive(Deserialize)]
pub(super) struct KeysetStatus {
    pub signing: Option<String>,
    pub published: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct ReloadStatus {
    /// When the last look at the files began.
    pub looked_at: Option<i64>,
    pub in_force: bool,
    pub problems: Vec<FieldProblem>,
}

impl ReloadStatus {
    /// All problems in one line.
    pub fn told(&self) -> String {
        let told = self.problems.iter().map(|FieldProblem { field, message }| match field.as_str() {
            "" => message.clone(),
            field => format!("{field}: {message}"),
        });
        told.collect::<Vec<_>>().join("; ")
    }
}

#[derive(Deserialize, Serialize)]
pub(super) struct FieldProblem {
    pub field: String,
    pub message: String,
}

/// Why a running service said nothing.
pub(super) enum Silence {
    /// Nothing listens there.
    NobodyThere,
    /// Somebody does, and can't be asked.
    Failed(String),
}

/// The service that runs on this host: mostly one, and several where replicas share its files.
pub(super) struct RunningService(Vec<OpsAddress>);

impl RunningService {
    /// Finds the services that run with the configuration of `context` or with one of `key_folders`, wherever they listen. Where
    /// there is none, it takes the address of the configuration: a service in another container may answer there.
    ///
    /// # Errors
    /// No service is found, and the address can't be read.
    pub fn find(context: &Context<'_>, key_folders: &[PathBuf]) -> Result<Self, Failure> {
        let configuration = context.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let key_folders = key_folders.to_vec();
        let found = within(PATIENCE, move || {
            let running = block_on(discovery::find_running()).unwrap_or_default();
            let ours = running.into_iter().filter(|service| service.uses(&configuration, &key_folders));
            ours.filter_map(discovery::RunningService::ops_address).collect::<Vec<_>>()
        });
        match found.unwrap_or_default() {
            none if none.is_empty() => Ok(Self(vec![context.ops_address()?])),
            found => Ok(Self(found)),
        }
    }

    /// The addresses of all services of this host of whose status `is_so` holds, whatever files they run with.
    pub fn all_of_which(is_so: impl Fn(&Status) -> bool) -> Vec<String> {
        let running =
            within(PATIENCE, || block_on(discovery::find_running()).unwrap_or_default()).unwrap_or_default();
        let addresses = running.into_iter().filter_map(discovery::RunningService::ops_address);
        let such = addresses.filter(|address| status(address).is_ok_and(|status| is_so(&status)));
        such.map(|address| address.listen.to_string()).collect()
    }

    pub fn address(&self) -> String {
        self.0.iter().map(|address| address.listen.to_string()).collect::<Vec<_>>().join(" and ")
    }

    /// What it has seen of its keys; `None` where it can't be asked.
    pub fn seen(&self) -> Option<Seen> {
        let body = self.0.iter().find_map(|address| ask(address, "/metrics").ok())?;
        Some(Seen::read(&String::from_utf8_lossy(&body)))
    }

    /// The status of the first service that answers.
    pub fn status(&self) -> Result<Status, Silence> {
        let mut answers = self.0.iter().map(status);
        answers
            .find(|answer| !matches!(answer, Err(Silence::NobodyThere)))
            .unwrap_or(Err(Silence::NobodyThere))
    }

    /// Asks each service until `done` holds of its answer, for at most `patience` in all. Returns the last answer, and whether
    /// `done` holds of all.
    pub fn wait(
        &self,
        patience: Duration,
        done: impl Fn(&Status) -> bool,
    ) -> Result<(bool, Status), Silence> {
        const PAUSE: Duration = Duration::from_millis(100);
        let begin = std::time::Instant::now();
        let mut answers = Err(Silence::NobodyThere);
        for address in &self.0 {
            loop {
                // A failure may pass, but for nobody's being there.
                match status(address) {
                    Ok(status) if done(&status) => {
                        answers = Ok((true, status));
                        break;
                    }
                    Ok(status) if begin.elapsed() > patience => return Ok((false, status)),
                    Err(Silence::NobodyThere) => break,
                    Err(silence) if begin.elapsed() > patience => return Err(silence),
                    Ok(_) | Err(_) => {}
                }
                std::thread::sleep(PAUSE);
            }
        }
        answers
    }
}

fn status(address: &OpsAddress) -> Result<Status, Silence> {
    let body = ask(address, "/status")?;
    serde_json::from_slice(&body).map_err(|_| {
        let message = "what answers there is no tokenmint, or one of an older version".to_owned();
        Silence::Failed(message)
    })
}

fn ask(address: &OpsAddress, path: &str) -> Result<Bytes, Silence> {
    let failed = |error: &dyn std::fmt::Display| Silence::Failed(error.to_string());
    let asked = block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, get(address, path)).await });
    match asked.map_err(|error| failed(&error))? {
        Err(_) => Err(Silence::Failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        Ok(Err(error)) => {
            let nobody = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
            });
            Err(if nobody { Silence::NobodyThere } else { failed(&error) })
        }
        Ok(Ok((status, body))) if status.is_success() => Ok(body),
        Ok(Ok((status, _))) => Err(Silence::Failed(format!("{path} answered {status}"))),
    }
}

fn block_on<T>(asked: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked))
}

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The answer to `GET path`, of those that are on the ops listener where there is one.
pub(super) async fn get(address: &OpsAddress, path: &str) -> Result<(StatusCode, Bytes), Error> {
    let tls = address.tls.as_ref();
    match &address.listen {
        Listen::Unix(socket) => over(UnixStream::connect(socket).await?, tls, path).await,
        Listen::Tcp(address) => over(TcpStream::connect(reachable(*address)).await?, tls, path).await,
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

async fn over<S>(stream: S, tls: Option<&OpsTls>, path: &str) -> Result<(StatusCode, Bytes), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return send(stream, path).await };
    if tls.is_mutual {
        return Err("[server.tls] asks for a client certificate, which this command has none of; move health and metrics \
                    to a listener of their own with [server.ops]"
            .into());
    }
    let (own, _) = load_certificates(tls.certificate_file.as_path())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OwnCertificate { own, provider }))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    send(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, path).await
}

async fn send<S>(stream: S, path: &str) -> Result<(StatusCode, Bytes), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("Host", "localhost").body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
    Ok((head.status, body))
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
        _: CertificateTime,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_of_a_key_is_read_from_the_metrics() {
        let seen = Seen::read(
            "# HELP tokenmint_live_tokens …\ntokenmint_live_tokens{keyset=\"web\",kid=\"a,b=c\"} 7\n\
             tokenmint_key_fetched_timestamp_seconds{client=\"java\",keyset=\"web\",kid=\"a,b=c\"} 1764000000\n\
             tokenmint_panics_total 0\n",
        );
        let (keyset, kid) = (Name::parse("web").expect("a name"), KeyId::parse("a=c").expect("an id"));
        assert_eq!(seen.live_tokens(&keyset, &kid), 0);
        let key = seen.0.get(&("web".to_owned(), "a,b=c".to_owned())).expect("the key");
        assert_eq!(key.live_tokens, 7);
        assert_eq!(key.fetched["java"].seconds(), 1_764_000_000);
    }
}
