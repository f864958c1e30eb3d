//! Client for the ops endpoints of services on this host: `/status`, `/metrics` and `/livez`.

use std::collections::{BTreeMap, BTreeSet};
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

use super::{CliContext, CliError, FILE_TIMEOUT, keyset_directories, print_stderr, run_with_timeout};
use crate::app::discovery::{self, RunningService};
use crate::app::tls::load_certificates;
use crate::clock::UnixTime;
use crate::config::{DEFAULT_CONFIG_FILE, KeyId, ListenAddress, Name, OpsAddress, OpsTls};
use crate::doctor::escape_invisible;

/// The largest response; the metrics of ten thousand keys are smaller.
const MAX_ADMIN_RESPONSE_BYTES: usize = 32 << 20;
/// The longest wait for one response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The metrics of each key of a running service.
pub(super) struct KeyMetrics(BTreeMap<(String, String), KeyMetric>);

#[derive(Default)]
struct KeyMetric {
    live_tokens: u64,
    fetched: BTreeMap<String, UnixTime>,
}

impl KeyMetrics {
    /// Returns an upper bound of the unexpired tokens that the key has signed since the service started. Returns 0 if the
    /// metric is absent.
    pub(crate) fn live_tokens(&self, keyset: &Name, kid: &KeyId) -> u64 {
        self.key(keyset, kid).map_or(0, |key| key.live_tokens)
    }

    /// Returns the time at which each class of clients last fetched the key.
    pub(crate) fn fetched(&self, keyset: &Name, kid: &KeyId) -> BTreeMap<String, UnixTime> {
        self.key(keyset, kid).map(|key| key.fetched.clone()).unwrap_or_default()
    }

    fn key(&self, keyset: &Name, kid: &KeyId) -> Option<&KeyMetric> {
        self.0.get(&(keyset.to_string(), kid.to_string()))
    }

    /// Parses the text of `/metrics`.
    fn parse(metrics: &str) -> Self {
        let mut keys: BTreeMap<(String, String), KeyMetric> = BTreeMap::new();
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
                    key.fetched.insert(escape_invisible(client), UnixTime::from_seconds(value));
                }
                _ => {}
            }
        }
        Self(keys)
    }
}

/// The response of `/status`.
#[derive(Deserialize)]
pub(super) struct StatusReply {
    pub(crate) keysets: BTreeMap<String, KeysetStatusReply>,
    pub(crate) reload: ReloadStatusReply,
}

#[derive(Deserialize)]
pub(super) struct KeysetStatusReply {
    pub(crate) signing: Option<String>,
    pub(crate) published: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct ReloadStatusReply {
    /// The Unix time at which the last check of the files began.
    pub(crate) looked_at: Option<i64>,
    pub(crate) in_force: bool,
    pub(crate) problems: Vec<FieldProblemReply>,
}

impl ReloadStatusReply {
    /// Returns all problems in one line.
    pub(crate) fn problem_summary(&self) -> String {
        let messages =
            self.problems.iter().map(|FieldProblemReply { field, message }| match field.as_str() {
                "" => message.clone(),
                field => format!("{field}: {message}"),
            });
        messages.collect::<Vec<_>>().join("; ")
    }
}

#[derive(Deserialize, Serialize)]
pub(super) struct FieldProblemReply {
    pub(crate) field: String,
    pub(crate) message: String,
}

/// Why no service answered at an ops address.
pub(super) enum QueryError {
    /// Nothing listens at the address.
    NotRunning,
    /// Something listens there, but the request failed.
    Failed(String),
}

/// A client of the services on this host that share the configuration: usually one, several for replicas with
/// shared files.
pub(super) struct AdminClient(Vec<OpsAddress>);

impl AdminClient {
    /// Finds the trusted services that run with the configuration of `context` or with one of `key_folders`, at any
    /// address. If there is none, it uses the address in the configuration: a service in another container may
    /// answer there.
    ///
    /// # Errors
    /// No service is found, and the address can't be read.
    pub(crate) fn find(context: &CliContext<'_>, key_folders: &[PathBuf]) -> Result<Self, CliError> {
        let configuration = configuration_path(context);
        let folders = key_folders.to_vec();
        let found = find_trusted(context, key_folders, move |service| service.uses(&configuration, &folders));
        let found = found.into_iter().filter_map(RunningService::ops_address).collect::<Vec<_>>();
        if found.is_empty() { Ok(Self(vec![context.ops_address()?])) } else { Ok(Self(found)) }
    }

    /// Returns the trusted services that read the configuration of `context`.
    pub(crate) fn readers(context: &CliContext<'_>) -> Vec<RunningService> {
        let configuration = configuration_path(context);
        find_by_trust(context, &[], move |service| service.reads(&configuration)).0
    }

    /// Finds the trusted services that read the configuration of `context`.
    ///
    /// # Errors
    /// There is none. The message says what answers at the address in the configuration.
    pub(crate) fn find_readers(context: &CliContext<'_>) -> Result<Self, CliError> {
        let configuration = configuration_path(context);
        let file = context.config_description();
        let found = find_trusted(context, &[], move |service| service.reads(&configuration));
        if found.is_empty() {
            let address = context.ops_address()?;
            let listen = address.listen.to_string();
            if matches!(fetch_status(&address), Err(QueryError::NotRunning)) {
                return Err(CliError::Failed(format!("no service answers at {listen}, {NONE_VISIBLE}")));
            }
            let at = listen.clone();
            let (others, _) = find_by_trust(context, &[], move |service| service.listen() == at);
            return Err(CliError::Failed(match others.first() {
                Some(other) => format!(
                    "the service at {listen} reads {}, not {file}",
                    other.configuration().map_or_else(
                        || "environment variables".to_owned(),
                        |path| escape_invisible(&path.display().to_string())
                    )
                ),
                None => format!(
                    "something answers at {listen}, but it isn't known which files it reads, {NONE_VISIBLE}. Run this \
                     command where the service runs, as its user"
                ),
            }));
        }
        Ok(Self(found.into_iter().filter_map(RunningService::ops_address).collect()))
    }

    /// Returns the addresses of the trusted services on this host with a status that matches `matches`, whatever files
    /// they use.
    pub(crate) fn addresses_where(
        context: &CliContext<'_>,
        matches: impl Fn(&StatusReply) -> bool,
    ) -> Vec<String> {
        let addresses =
            find_by_trust(context, &[], |_| true).0.into_iter().filter_map(RunningService::ops_address);
        let matching = addresses.filter(|address| fetch_status(address).is_ok_and(|status| matches(&status)));
        matching.map(|address| escape_invisible(&address.listen.to_string())).collect()
    }

    pub(crate) fn address(&self) -> String {
        let addresses = self.0.iter().map(|address| escape_invisible(&address.listen.to_string()));
        addresses.collect::<Vec<_>>().join(" and ")
    }

    /// Returns the key metrics of the first service that answers.
    pub(crate) fn key_metrics(&self) -> Option<KeyMetrics> {
        let body = self.0.iter().find_map(|address| fetch(address, "/metrics").ok())?;
        Some(KeyMetrics::parse(&String::from_utf8_lossy(&body)))
    }

    /// Returns the status of the first service that runs, or why it can't be read.
    pub(crate) fn status(&self) -> Result<StatusReply, QueryError> {
        let mut answers = self.0.iter().map(fetch_status);
        answers
            .find(|answer| !matches!(answer, Err(QueryError::NotRunning)))
            .unwrap_or(Err(QueryError::NotRunning))
    }

    /// Polls each service until `done` accepts its status, for about `time_limit` in total. Returns the last
    /// status, and whether `done` accepted every service that runs.
    pub(crate) fn wait_until(
        &self,
        time_limit: Duration,
        done: impl Fn(&StatusReply) -> bool,
    ) -> Result<(bool, StatusReply), QueryError> {
        const POLL_INTERVAL: Duration = Duration::from_millis(100);
        let start = std::time::Instant::now();
        let mut answers = Err(QueryError::NotRunning);
        for address in &self.0 {
            loop {
                // A failure may be temporary, except if nothing listens.
                match fetch_status(address) {
                    Ok(status) if done(&status) => {
                        answers = Ok((true, status));
                        break;
                    }
                    Ok(status) if start.elapsed() > time_limit => return Ok((false, status)),
                    Err(QueryError::NotRunning) => break,
                    Err(error) if start.elapsed() > time_limit => return Err(error),
                    Ok(_) | Err(_) => {}
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        answers
    }
}

/// The sentence for a service that isn't found: it may run all the same.
pub(super) const NONE_VISIBLE: &str =
    "and no service with these files is visible from here (one in a container isn't)";

fn configuration_path(context: &CliContext<'_>) -> PathBuf {
    context.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG_FILE))
}

/// Returns the trusted services on this host that match `matches`, and the users of the other services that match. A service
/// is trusted if its user could use these files: [`discovery::FoundService::is_trusted`].
fn find_by_trust(
    context: &CliContext<'_>,
    key_folders: &[PathBuf],
    matches: impl Fn(&RunningService) -> bool + Send + 'static,
) -> (Vec<RunningService>, BTreeSet<u32>) {
    let configuration = configuration_path(context);
    let keysets = context.keysets().unwrap_or_default();
    let configured = keyset_directories(&keysets).map(|(_, directory)| directory.to_path_buf());
    let folders: Vec<PathBuf> = configured.chain(key_folders.iter().cloned()).collect();
    let found = run_with_timeout(FILE_TIMEOUT, move || {
        let running = block_on(discovery::find_running()).unwrap_or_default().into_iter();
        let matching = running.filter(|service| matches(&service.description));
        matching.partition::<Vec<_>, _>(|service| service.is_trusted(&configuration, &folders))
    });
    let (trusted, ignored) = found.unwrap_or_default();
    let trusted = trusted.into_iter().map(|service| service.description).collect();
    (trusted, ignored.iter().map(|service| service.user).collect())
}

/// Returns the trusted services that match, and prints a warning for the others.
fn find_trusted(
    context: &CliContext<'_>,
    key_folders: &[PathBuf],
    matches: impl Fn(&RunningService) -> bool + Send + 'static,
) -> Vec<RunningService> {
    let (trusted, ignored_users) = find_by_trust(context, key_folders, matches);
    for user in ignored_users {
        print_stderr(&format!(
            "warning: ignored a process of user {user} that answers as the service: that user can't read these keys"
        ));
    }
    trusted
}

fn fetch_status(address: &OpsAddress) -> Result<StatusReply, QueryError> {
    let body = fetch(address, "/status")?;
    let mut status: StatusReply = serde_json::from_slice(&body).map_err(|_| {
        let message = "the response isn't from tokenmint, or is from an older version".to_owned();
        QueryError::Failed(message)
    })?;
    // They are printed to a terminal, and the peer may be another program.
    for FieldProblemReply { field, message } in &mut status.reload.problems {
        (*field, *message) = (escape_invisible(field), escape_invisible(message));
    }
    Ok(status)
}

fn fetch(address: &OpsAddress, path: &str) -> Result<Bytes, QueryError> {
    let failed = |error: &dyn std::fmt::Display| QueryError::Failed(error.to_string());
    let response = block_on(async { tokio::time::timeout(RESPONSE_TIMEOUT, get(address, path)).await });
    match response.map_err(|error| failed(&error))? {
        Err(_) => Err(QueryError::Failed(format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs()))),
        Ok(Err(error)) => {
            let nothing_listens = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
            });
            Err(if nothing_listens { QueryError::NotRunning } else { failed(&error) })
        }
        Ok(Ok((status, body))) if status.is_success() => Ok(body),
        Ok(Ok((status, _))) => Err(QueryError::Failed(format!("{path} answered {status}"))),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends `GET path` to the ops listener, or to the main listener if there is no ops listener.
pub(super) async fn get(address: &OpsAddress, path: &str) -> Result<(StatusCode, Bytes), BoxError> {
    let tls = address.tls.as_ref();
    match &address.listen {
        ListenAddress::Unix(socket) => connect_and_send(UnixStream::connect(socket).await?, tls, path).await,
        ListenAddress::Tcp(address) => {
            connect_and_send(TcpStream::connect(connectable_address(*address)).await?, tls, path).await
        }
    }
}

/// Replaces the unspecified address by loopback.
const fn connectable_address(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn connect_and_send<S>(
    stream: S,
    tls: Option<&OpsTls>,
    path: &str,
) -> Result<(StatusCode, Bytes), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return send_request(stream, path).await };
    if tls.is_mutual {
        return Err(
            "[server.tls] requires a client certificate, and this command has none: move health and metrics \
        to a listener of their own with [server.ops]"
                .into(),
        );
    }
    let (pinned, _) = load_certificates(tls.certificate_file.as_path())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCertVerifier { pinned, provider }))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    send_request(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, path).await
}

async fn send_request<S>(stream: S, path: &str) -> Result<(StatusCode, Bytes), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("Host", "localhost").body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ADMIN_RESPONSE_BYTES).collect().await?.to_bytes();
    Ok((head.status, body))
}

/// Accepts only the certificate in the service's configuration. Its host name is public, so a check of the name
/// would fail on loopback.
#[derive(Debug)]
struct PinnedCertVerifier {
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: CertificateTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pinned.first() == Some(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(
                "the service presented another certificate than the configured one".to_owned(),
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_metrics_are_parsed_from_prometheus_text() {
        let key_metrics = KeyMetrics::parse(
            "# HELP tokenmint_live_tokens …\ntokenmint_live_tokens{keyset=\"web\",kid=\"a,b=c\"} 7\n\
             tokenmint_key_fetched_timestamp_seconds{client=\"java\",keyset=\"web\",kid=\"a,b=c\"} 1764000000\n\
             tokenmint_panics_total 0\n",
        );
        let (keyset, kid) = (Name::parse("web").expect("a name"), KeyId::parse("a=c").expect("an id"));
        assert_eq!(key_metrics.live_tokens(&keyset, &kid), 0);
        let key = key_metrics.0.get(&("web".to_owned(), "a,b=c".to_owned())).expect("the key");
        assert_eq!(key.live_tokens, 7);
        assert_eq!(key.fetched["java"].seconds(), 1_764_000_000);
    }
}
