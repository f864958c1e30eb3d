//! Service discovery on one host: lets commands find the running service and the listener that answers operators.
//!
//! The address in the configuration file may not be the service's: a change of it takes effect only after a restart, or an
//! environment variable sets it for the service only. A command that used the file's address would find no service, and would
//! report a key as removed although it still signs.
//!
//! So `tokenmint serve` listens on an abstract Unix socket (unix(7)). It tells every client which configuration file and key
//! directories it uses, and where its ops listener is. Commands find the names of these sockets in `/proc/net/unix`.
//! Processes see each other only within one network namespace, which containers usually don't share.
//!
//! Any user can bind such a name. So a command trusts only root, its own user, the owners of the configuration and the keys,
//! and a group that may read them ([`FoundService::is_trusted`]). The kernel says which user and group that is (`SO_PEERCRED`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::reload::ConfigSource;
use super::{App, StartError};
use crate::api::AppState;
use crate::config::{DEFAULT_CONFIG_FILE, KeysetSource, ListenAddress, OpsAddress, OpsTls};
use crate::files::is_same_file;
use crate::keys::DirectoryContents;

/// The prefix of the abstract socket names.
const SOCKET_NAME_PREFIX: &str = "tokenmint/";
/// How long each side waits for the other.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest description of a service, in bytes. It is enough for 10,000 key directories with paths of 400 bytes.
const MAX_DESCRIPTION_SIZE: u64 = 4 << 20;
/// The pause after a connection can't be accepted, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The description of a service that runs on this host. All paths are absolute.
#[derive(Serialize, Deserialize)]
pub(crate) struct RunningService {
    /// `None` if all settings come from environment variables.
    configuration: Option<PathBuf>,
    key_folders: Vec<PathBuf>,
    /// The address that answers operators: the ops listener's, or else the minting listener's.
    listen: String,
    /// Set if that listener uses TLS.
    tls: Option<OpsTls>,
}

impl RunningService {
    /// Whether the service uses the file `configuration` or one of `key_folders`. Compares the paths first, and accesses the file
    /// system only if none is equal, because a mount may hang.
    pub(crate) fn uses(&self, configuration: &Path, key_folders: &[PathBuf]) -> bool {
        let pairs = || {
            let configured = self.configuration.iter().map(|own| (own.as_path(), configuration));
            let folders =
                self.key_folders.iter().flat_map(|own| key_folders.iter().map(move |other| (own, other)));
            configured.chain(folders.map(|(own, other)| (own.as_path(), other.as_path())))
        };
        pairs().any(|(own, other)| absolute(other).is_ok_and(|other| own == other))
            || pairs().any(|(own, other)| is_same_file(own, other))
    }

    /// Whether the service reads the configuration file `configuration`. A service without a file matches a path at which there
    /// is none.
    pub(crate) fn reads(&self, configuration: &Path) -> bool {
        match &self.configuration {
            Some(own) => {
                absolute(configuration).is_ok_and(|other| *own == other) || is_same_file(own, configuration)
            }
            None => !configuration.exists(),
        }
    }

    /// The configuration file that the service reads; `None` if all settings come from environment variables.
    pub(crate) fn configuration(&self) -> Option<&Path> {
        self.configuration.as_deref()
    }

    pub(crate) fn key_folders(&self) -> &[PathBuf] {
        &self.key_folders
    }

    pub(crate) fn listen(&self) -> &str {
        &self.listen
    }

    /// The address that answers operators; `None` if it can't be parsed.
    pub(crate) fn ops_address(self) -> Option<OpsAddress> {
        let listen = ListenAddress::parse(&self.listen, Path::new("/")).ok()?;
        Some(OpsAddress { listen, tls: self.tls })
    }
}

/// The socket by which commands find this service, and the description that they read from it.
pub(crate) struct DiscoverySocket {
    socket: UnixListener,
    state: Arc<AppState>,
    configuration: Option<PathBuf>,
    listen: ListenAddress,
    tls: Option<OpsTls>,
}

impl DiscoverySocket {
    /// Binds the socket under a random name.
    ///
    /// # Errors
    /// The socket can't be bound, or the host gives no randomness.
    pub(crate) fn bind(app: &App, source: &ConfigSource) -> Result<Self, StartError> {
        let state = app.state().clone();
        let mut bytes = [0; 8];
        state.randomness.fill(&mut bytes)?;
        let name = format!("{SOCKET_NAME_PREFIX}{}", HEXLOWER.encode(&bytes));
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
        let server = &state.snapshot.load().config.server;
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
        Ok(Self { socket, state: state.clone(), configuration, listen, tls })
    }

    /// Sends the description to each client, until the future is dropped.
    pub(crate) async fn run(self) {
        loop {
            let Ok((mut stream, _)) = self.socket.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if let Ok(told) = serde_json::to_vec(&self.description()) {
                let _ = timeout(DISCOVERY_TIMEOUT, stream.write_all(&told)).await;
            }
        }
    }

    fn description(&self) -> RunningService {
        let snapshot = self.state.snapshot.load();
        let folders = snapshot.config.keysets.values().filter_map(|keyset| match &keyset.keys {
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

/// A process that answers as a service, and its user.
pub(crate) struct FoundService {
    pub(crate) description: RunningService,
    pub(crate) user: u32,
    group: u32,
}

impl FoundService {
    /// Whether the process has a right to these files: it runs as root, as this command's user, or as an owner of them. A group
    /// that may read the configuration or a private key counts too, if others may not access that file.
    pub(crate) fn is_trusted(&self, configuration: &Path, key_folders: &[PathBuf]) -> bool {
        if [0, geteuid().as_raw()].contains(&self.user) {
            return true;
        }
        let has_rights = |path: &Path| {
            fs::metadata(path).is_ok_and(|metadata| {
                let is_for_group = metadata.is_file() && metadata.mode() & 0o047 == 0o040;
                metadata.uid() == self.user || (is_for_group && metadata.gid() == self.group)
            })
        };
        let keys = key_folders.iter().flat_map(|folder| {
            DirectoryContents::list(folder).map(|contents| contents.keys).unwrap_or_default().into_values()
        });
        has_rights(configuration)
            || key_folders.iter().any(|folder| has_rights(folder))
            || keys.into_iter().any(|key| has_rights(key.path()))
    }
}

/// Finds the processes on this host that answer as a service in time.
pub(crate) async fn find_running() -> Vec<FoundService> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    // A set, because connections to a socket are listed under its name too.
    let names: BTreeSet<&str> =
        sockets.lines().filter_map(|line| line.split_once(" @")).map(|(_, name)| name).collect();
    // In parallel, so that a process that uses such a name and doesn't answer can't delay the others.
    let mut asked = JoinSet::new();
    for name in names.into_iter().filter(|name| name.starts_with(SOCKET_NAME_PREFIX)) {
        asked.spawn(timeout(DISCOVERY_TIMEOUT, read_description(name.to_owned())));
    }
    asked.join_all().await.into_iter().flatten().flatten().collect()
}

async fn read_description(name: String) -> io::Result<FoundService> {
    let stream = UnixStream::connect(format!("\0{name}")).await?;
    let peer = stream.peer_cred()?;
    let mut told = Vec::new();
    stream.take(MAX_DESCRIPTION_SIZE).read_to_end(&mut told).await?;
    Ok(FoundService { description: serde_json::from_slice(&told)?, user: peer.uid(), group: peer.gid() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    #[test]
    fn a_process_is_believed_only_if_its_user_could_use_the_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let (configuration, key) = (folder.path().join("tokenmint.toml"), folder.path().join("a.key"));
        for path in [&configuration, &key] {
            fs::write(path, "").expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("changed");
        }
        let folders = [folder.path().to_path_buf()];
        let us = geteuid().as_raw();
        let group = fs::metadata(&key).expect("a file").gid();
        let is_trusted = |user, group| {
            let description = RunningService {
                configuration: None,
                key_folders: Vec::new(),
                listen: String::new(),
                tls: None,
            };
            FoundService { description, user, group }.is_trusted(&configuration, &folders)
        };
        let (other, other_group) = (us + 4242, group + 4242);
        assert!(is_trusted(us, other_group) && is_trusted(0, other_group));
        assert!(is_trusted(other, group), "the group may read the keys");
        assert!(!is_trusted(other, other_group));
        for path in [&configuration, &key] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changed");
        }
        assert!(!is_trusted(other, group), "everybody may read the files");
        // Only root can give files away.
        if us == 0 {
            chown(&key, Some(other), None).expect("given");
            assert!(is_trusted(other, other_group));
        }
    }
}
