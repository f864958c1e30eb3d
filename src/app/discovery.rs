//! Lets commands on this host find the service that runs, whatever its configuration file says by now.
//!
//! The address in the file may not be the service's: a change of it waits for a restart, or a variable sets it for the
//! service alone. A command that then asked at that address would find nobody, and call a key taken away that still signs.
//! So a service listens on a Unix socket without a file (unix(7), "abstract"), and tells whoever connects which files it
//! runs with and where its ops listener is. A command finds the names of all such sockets in `/proc/net/unix`. Containers
//! that share neither the network nor a loopback address don't see each other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::reload::Source;
use super::{App, StartError};
use crate::config::{DEFAULT_CONFIG_FILE, KeysetSource, ListenAddress, OpsAddress, OpsTls};
use crate::files::is_same;
use crate::http::Service;

/// How the name of each socket begins.
const PREFIX: &str = "tokenmint/";
/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a description: 10,000 key folders are less.
const LARGEST: u64 = 4 << 20;
/// Without a descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// A service that runs on this host.
#[derive(Serialize, Deserialize)]
pub struct RunningService {
    /// Absolute, as all paths here; `None` where all settings are variables.
    configuration: Option<PathBuf>,
    key_folders: Vec<PathBuf>,
    listen: String,
    tls: Option<OpsTls>,
}

impl RunningService {
    /// Whether it runs with that configuration file or one of those key folders. What is equal as text isn't looked at: it may
    /// lie on a mount that hangs.
    pub fn reads(&self, configuration: &Path, key_folders: &[PathBuf]) -> bool {
        let pairs = || {
            let configured = self.configuration.iter().map(|own| (own.as_path(), configuration));
            let folders =
                self.key_folders.iter().flat_map(|own| key_folders.iter().map(move |other| (own, other)));
            configured.chain(folders.map(|(own, other)| (own.as_path(), other.as_path())))
        };
        pairs().any(|(own, other)| absolute(other).is_ok_and(|other| own == other))
            || pairs().any(|(own, other)| is_same(own, other))
    }

    /// Where it answers operators; `None` where that can't be understood.
    pub fn ops_address(self) -> Option<OpsAddress> {
        let listen = ListenAddress::parse(&self.listen, Path::new("/")).ok()?;
        Some(OpsAddress { listen, tls: self.tls })
    }
}

/// The socket by which commands find this service, and what they read there.
pub struct Announcement {
    socket: UnixListener,
    service: Arc<Service>,
    configuration: Option<PathBuf>,
    listen: ListenAddress,
    tls: Option<OpsTls>,
}

impl Announcement {
    /// # Errors
    /// The socket can't be bound, or there is no randomness for its name.
    pub fn bind(app: &App, source: &Source) -> Result<Self, StartError> {
        let service = app.service().clone();
        let mut bytes = [0; 8];
        service.randomness.fill(&mut bytes)?;
        let name = format!("{PREFIX}{}", HEXLOWER.encode(&bytes));
        let bound = std::os::unix::net::SocketAddr::from_abstract_name(name)
            .and_then(|name| std::os::unix::net::UnixListener::bind_addr(&name))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .and_then(UnixListener::from_std);
        let socket = bound.map_err(StartError::Discovery)?;
        let file = source
            .file
            .clone()
            .or_else(|| Some(PathBuf::from(DEFAULT_CONFIG_FILE)).filter(|file| file.exists()));
        let configuration = file.and_then(|file| absolute(file).ok());
        let server = &service.rooms.load().config.server;
        let wanted = if server.ops.is_some() { "ops" } else { "minting" };
        let listen = app.addresses().find(|(name, ..)| *name == wanted).map(|(.., address)| address);
        let listen = match listen.unwrap_or_default() {
            ListenAddress::Unix(path) => ListenAddress::Unix(absolute(&path).unwrap_or(path)),
            tcp @ ListenAddress::Tcp(_) => tcp,
        };
        let tls = server.tls.as_ref().filter(|_| server.ops.is_none()).map(|tls| {
            let file = tls.certificate_file.as_path();
            OpsTls {
                certificate_file: absolute(file).unwrap_or_else(|_| file.to_path_buf()),
                is_mutual: tls.client_ca_file.is_some(),
            }
        });
        Ok(Self { socket, service: service.clone(), configuration, listen, tls })
    }

    /// Answers whoever connects, until the task is dropped.
    pub async fn run(self) {
        loop {
            let Ok((mut stream, _)) = self.socket.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if let Ok(told) = serde_json::to_vec(&self.now()) {
                let _ = timeout(PATIENCE, stream.write_all(&told)).await;
            }
        }
    }

    fn now(&self) -> RunningService {
        let rooms = self.service.rooms.load();
        let folders = rooms.config.keysets.values().filter_map(|keyset| match &keyset.keys {
            KeysetSource::Directory(directory) => absolute(directory.as_path()).ok(),
            KeysetSource::File { .. } | KeysetSource::Text { .. } => None,
        });
        RunningService {
            configuration: self.configuration.clone(),
            key_folders: folders.collect(),
            listen: self.listen.to_string(),
            tls: self.tls.clone(),
        }
    }
}

/// The services that run on this host and can be asked. One that ends meanwhile is left out.
pub async fn running() -> Vec<RunningService> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    // A connection that is being made is listed under its listener's name.
    let names: BTreeSet<&str> =
        sockets.lines().filter_map(|line| line.split_once(" @")).map(|(_, name)| name).collect();
    // All at once: whoever takes such a name and says nothing holds up no other.
    let mut asked = JoinSet::new();
    for name in names.into_iter().filter(|name| name.starts_with(PREFIX)) {
        asked.spawn(timeout(PATIENCE, describe(name.to_owned())));
    }
    asked.join_all().await.into_iter().flatten().flatten().collect()
}

async fn describe(name: String) -> io::Result<RunningService> {
    let stream = UnixStream::connect(format!("\0{name}")).await?;
    let mut told = Vec::new();
    stream.take(LARGEST).read_to_end(&mut told).await?;
    Ok(serde_json::from_slice(&told)?)
}
