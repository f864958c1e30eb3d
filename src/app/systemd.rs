//! What systemd is told (`sd_notify(3)`), and the sockets that it holds for us (`sd_listen_fds(3)`). Where nobody
//! supervises, all of this does nothing.
//!
//! - `READY=1` once it answers, `RELOADING=1` around a reload, `STOPPING=1` at the end.
//! - The watchdog is fed by a task of the service's own runtime: one whose workers are stuck is not fed, and is started
//!   anew.
//! - Sockets are taken by their name, `minting`, `public` or `ops` (`FileDescriptorName=`), in place of the configured
//!   address. Several of one name, for example of IPv4 and of IPv6, are all served. Where all have one name that isn't
//!   among these, and only the minting listener is configured, they are its own.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// A message that doesn't arrive is the supervisor's loss.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// To be followed by [`notify_ready`].
pub fn notify_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, if there is one, for ever.
pub async fn feed_watchdog() {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| *timeout > Duration::ZERO) else {
        return;
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        // Twice as often as asked for (`sd_watchdog_enabled(3)`).
        tokio::time::sleep(timeout / 2).await;
    }
}

/// A socket that listens already.
pub enum InheritedSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Sockets that were handed over, by name.
#[derive(Default)]
pub struct InheritedSockets(BTreeMap<String, Vec<InheritedSocket>>);

impl InheritedSockets {
    /// Takes the sockets of this process. `is_sole_listener` says that the configuration has the minting listener alone.
    ///
    /// # Errors
    /// One of them listens neither on TCP nor on a Unix socket, or not at all.
    pub fn inherited(is_sole_listener: bool) -> io::Result<Self> {
        // Names without sockets are those of another process, which `LISTEN_PID` names: nothing is wrong with them.
        if sd_notify::listen_fds()?.len() == 0 {
            return Ok(Self::default());
        }
        let names: Vec<String> = sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
        let mut handed = ListenFd::from_env();
        let sole = names.iter().all(|name| *name == names[0]);
        let mut sockets: BTreeMap<String, Vec<InheritedSocket>> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let socket = match handed.take_tcp_listener(at) {
                Ok(tcp) => tcp.map(InheritedSocket::Tcp),
                Err(_) => handed.take_unix_listener(at)?.map(InheritedSocket::Unix),
            };
            let known = ["minting", "public", "ops"].contains(&name.as_str());
            let name = if known || !sole || !is_sole_listener { name.as_str() } else { "minting" };
            let Some(socket) = socket else { continue };
            let listens = match &socket {
                InheritedSocket::Tcp(socket) => rustix::net::sockopt::socket_acceptconn(socket),
                InheritedSocket::Unix(socket) => rustix::net::sockopt::socket_acceptconn(socket),
            };
            if !listens? {
                let reason = format!("the socket {name} doesn't listen: in its unit, leave out Accept=yes");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
            sockets.entry(name.to_owned()).or_default().push(socket);
        }
        Ok(Self(sockets))
    }

    pub fn take(&mut self, name: &str) -> Vec<InheritedSocket> {
        self.0.remove(name).unwrap_or_default()
    }

    /// Names that no listener of the configuration has.
    pub fn unclaimed(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
