//! systemd: notifications and socket activation. The tests act as systemd.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, DEADLINE, Workspace, configuration, signal};

/// A service with a notification socket, killed on drop.
struct Supervised {
    child: Child,
    told: UnixDatagram,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Supervised {
    fn start(workspace: &Workspace, command: &mut Command) -> Self {
        let path = workspace.path("notify.sock");
        let told = UnixDatagram::bind(&path).expect("a socket");
        told.set_read_timeout(Some(DEADLINE)).expect("a time limit");
        let child =
            command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).spawn().expect("the binary runs");
        Self { child, told }
    }

    /// Waits for a notification that contains `wanted`, and ignores others.
    fn says(&self, wanted: &str) -> String {
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            let mut message = [0; 512];
            let length = self.told.recv(&mut message).expect("a message in time");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.contains(wanted) {
                return message;
            }
        }
        panic!("it never said {wanted}");
    }
}

#[test]
fn systemd_is_notified_of_start_reload_stop_and_the_watchdog() {
    let workspace = Workspace::new();
    let mut command = workspace.command(&["serve"]);
    let service = Supervised::start(&workspace, command.env("WATCHDOG_USEC", "400000"));
    service.says("READY=1");
    service.says("WATCHDOG=1");
    service.says("WATCHDOG=1");
    signal(service.child.id(), "HUP");
    assert!(service.says("RELOADING=1").contains("MONOTONIC_USEC="));
    service.says("READY=1");
    signal(service.child.id(), "TERM");
    service.says("STOPPING=1");
}

/// The port is open while no service runs, and a restart loses no connection.
#[tokio::test]
async fn a_socket_that_systemd_holds_is_used_in_place_of_the_configured_address() {
    let mut workspace = Workspace::new();
    workspace.set("TOKENMINT_SERVER__LISTEN", "127.0.0.1:1");
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("bound");
    // The shell passes its standard input as descriptor 3, where systemd puts the socket.
    let script =
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tokenmint.socket exec \"$0\" serve";
    let start = || {
        let mut command = workspace.program("sh");
        let held = OwnedFd::from(held.try_clone().expect("a descriptor"));
        command.args(["-c", script, env!("CARGO_BIN_EXE_tokenmint")]).stdin(Stdio::from(held));
        let _ = std::fs::remove_file(workspace.path("notify.sock"));
        Supervised::start(&workspace, &mut command)
    };
    for _ in 0..2 {
        // The client connects and sends its request before the service starts.
        let mut early = TcpStream::connect(address).await.expect("the socket listens");
        early
            .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("written");
        let _service = start();
        let mut answer = String::new();
        let read = tokio::time::timeout(DEADLINE, early.read_to_string(&mut answer)).await;
        read.expect("an answer in time").expect("read");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A public socket whose unit gives it a wrong name must not mint. A socket that doesn't listen is an error.
#[test]
fn a_socket_without_a_listener_s_name_is_not_used_for_minting() {
    let workspace = Workspace::new();
    workspace.configure(&format!("{}[server.public]\nlisten = \"127.0.0.1:0\"\n", configuration()));
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$1 exec \"$0\" serve";
    let start = |socket: OwnedFd, name: &str| {
        let mut command = workspace.program("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_tokenmint"), name]).stdin(Stdio::from(socket));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    for name in ["tokenmint-public.socket", "Public"] {
        let mut child = start(OwnedFd::from(held.try_clone().expect("a descriptor")), name);
        let mut log = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let warned = log.find(|line| line.contains("systemd passed a socket that belongs to no listener"));
        assert!(warned.is_some_and(|line| line.contains(name)), "{name}");
        child.kill().expect("ours");
        child.wait().expect("ended");
    }
    let (connected, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let ended = start(OwnedFd::from(connected), "minting").wait_with_output().expect("ended");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("doesn't listen"), "{said}");
}

/// For example, a shell that systemd started runs the service. The sockets are the shell's.
#[tokio::test]
async fn sockets_meant_for_another_process_are_ignored() {
    let mut workspace = Workspace::new();
    workspace.set("LISTEN_PID", "1").set("LISTEN_FDS", "1").set("LISTEN_FDNAMES", "minting");
    let service = workspace.serve().await;
    assert_eq!(service.get("/livez").await.status, 200);
}

/// For example, a unit has a `ListenStream=` for IPv4 and one for IPv6.
#[tokio::test]
async fn two_sockets_with_one_name_are_both_served() {
    let mut workspace = Workspace::new();
    workspace.set("TOKENMINT_SERVER__LISTEN", "127.0.0.1:1");
    for names in ["tokenmint.socket:tokenmint.socket", "minting:minting"] {
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [first, second] =
            held.each_ref().map(|held| OwnedFd::from(held.try_clone().expect("a descriptor")));
        let script = format!(
            "exec 3<&0 4<&2 </dev/null 2>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec \"$0\" serve"
        );
        let mut command = workspace.program("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_tokenmint")]);
        command.stdin(Stdio::from(first)).stderr(Stdio::from(second));
        let _ = std::fs::remove_file(workspace.path("notify.sock"));
        let service = Supervised::start(&workspace, &mut command);
        service.says("READY=1");
        for held in &held {
            let address = held.local_addr().expect("bound");
            let get = Answer::of(reqwest::Client::new().get(format!("http://{address}/livez")));
            let answer = tokio::time::timeout(DEADLINE, get).await.expect("an answer in time");
            assert_eq!(answer.status, 200, "{names}");
        }
    }
}
