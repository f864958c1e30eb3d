//! systemd integration: state notifications (`sd_notify(3)`), the watchdog, and socket activation (`sd_listen_fds(3)`).
//! Without systemd it does nothing.
//!
//! - Notifications: `READY=1` once the sockets are bound, `RELOADING=1` and `READY=1` around a reload, `STOPPING=1` at
//!   shutdown.
//! - Watchdog: a task on the service's runtime notifies it. So systemd restarts a service whose runtime is stuck.
//! - Socket activation: a socket named `minting`, `public` or `ops` (`FileDescriptorName=`) replaces the configured
//!   address of that listener. A listener serves all sockets of its name, for example one for IPv4 and one for IPv6. If all
//!   sockets have the same other name, and only the minting listener is configured, it serves them.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Sends `states` to systemd. Errors are ignored, because a failed notification must not stop the service.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Says that the service is ready, or that a reload has ended.
pub(crate) fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Says that a reload begins. [`notify_ready`] must follow.
pub(crate) fn notify_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Says that the service shuts down.
pub(crate) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog until the future is dropped. Returns at once if there is no watchdog.
pub(crate) async fn feed_watchdog() {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| *timeout > Duration::ZERO) else {
        return;
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        // Half the timeout, as recommended by `sd_watchdog_enabled(3)`.
        tokio::time::sleep(timeout / 2).await;
    }
}

/// A listening socket that systemd passed.
pub(crate) enum InheritedSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The listening sockets that systemd passed, by name.
#[derive(Default)]
pub(crate) struct InheritedSockets(BTreeMap<String, Vec<InheritedSocket>>);

impl InheritedSockets {
    /// Takes the sockets that were passed to this process. `is_sole_listener` says that only the minting listener is configured.
    ///
    /// # Errors
    /// A socket is neither TCP nor Unix, or isn't listening.
    pub(crate) fn inherited(is_sole_listener: bool) -> io::Result<Self> {
        // No sockets for this process: the variables may be for another process, named by `LISTEN_PID`.
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
                let reason = format!("the socket {name} doesn't listen: remove Accept=yes from its unit");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
            sockets.entry(name.to_owned()).or_default().push(socket);
        }
        Ok(Self(sockets))
    }

    /// Takes the sockets of the listener `name`.
    pub(crate) fn take(&mut self, name: &str) -> Vec<InheritedSocket> {
        self.0.remove(name).unwrap_or_default()
    }

    /// The names of the sockets that no listener has taken.
    pub(crate) fn unclaimed(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
