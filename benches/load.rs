//! The load generator of `make bench`, in its own process.
//!
//!     load drive ADDRESS REQUESTS THREADS CONNECTIONS WARMUP SECONDS [shedding]
//!     load probe ADDRESS MILLISECONDS SECONDS NAME=new|kept=REQUESTS…
//!
//! REQUESTS is a file of whole HTTP/1.1 requests, separated by NUL bytes. They are sent in turn.
//!
//! `drive` is a closed loop: each connection sends its next request when it has received the whole response. It prints `begin` and
//! `end` around the measured window, so that the harness can read the CPU times of all processes, and then the figures.
//!
//! `probe` sends one request per interval in a thread for each probe, over new connections (the time includes connecting) or over
//! a kept one.
//!
//! Any response other than a complete 200 ends the run, because figures over errors are meaningless. There are two exceptions:
//! - A server may close a kept connection between responses. The request is then sent again over a new connection (RFC 9112, section
//!   9.3.1). Its time continues, and `reconnects` counts it.
//! - With `shedding`, a 503 is allowed. Only `shed` counts it.

#![expect(clippy::panic, clippy::print_stdout, reason = "the harness reads stdout and shows panics")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use serde_json::{Map, Value, json};

/// The buffer size: larger than any measured response, so that one read usually receives all of it.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [command, address, file, threads, connections, warmup, seconds, shedding @ ..]
            if command == "drive" && (shedding.is_empty() || shedding == ["shedding"]) =>
        {
            let requests = Requests::read(file);
            let (threads, connections) = (number(threads), number(connections));
            let (warmup, seconds) = (duration(warmup), duration(seconds));
            let shedding = !shedding.is_empty();
            drive(parsed(address), &requests, threads, connections, warmup, seconds, shedding);
        }
        [command, address, milliseconds, seconds, probes @ ..] if command == "probe" => {
            let interval = Duration::from_millis(number(milliseconds) as u64);
            probe(parsed(address), interval, duration(seconds), probes);
        }
        _ => {
            println!("usage: see the head of benches/load.rs");
            std::process::exit(2);
        }
    }
}

fn parsed<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("`{text}` can't be read"))
}

fn number(text: &str) -> usize {
    parsed(text)
}

fn duration(seconds: &str) -> Duration {
    Duration::from_secs_f64(parsed(seconds))
}

/// The requests, which all connections take in turn.
struct Requests {
    list: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl Requests {
    fn read(file: &str) -> Self {
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let list: Vec<_> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        Self { list, next: AtomicUsize::new(0) }
    }

    fn next(&self) -> &[u8] {
        &self.list[self.next.fetch_add(1, Ordering::Relaxed) % self.list.len()]
    }
}

/// Whether `answer` is complete. Panics unless it is a 200 with a `Content-Length`; with `shedding`, a 503 is allowed too.
fn is_whole(answer: &[u8], shedding: bool) -> bool {
    let Some(head_end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..head_end]).expect("a head in ASCII");
    let fits = head.starts_with("HTTP/1.1 200 ") || shedding && is_shed(answer);
    assert!(fits, "not a 200: {}", String::from_utf8_lossy(answer));
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| number(value.trim()))
    });
    let whole = head_end + 4 + length.unwrap_or_else(|| panic!("no Content-Length in {head}"));
    assert!(answer.len() <= whole, "more than one answer to one request");
    answer.len() == whole
}

fn is_shed(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 503 ")
}

/// The count and the percentiles, in milliseconds, of times in nanoseconds.
fn summary(mut times: Vec<u64>) -> Value {
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds with three digits")]
    let at = |share_in_thousand: usize| {
        let last = times.len().saturating_sub(1);
        times.get(last * share_in_thousand / 1000).map_or(f64::NAN, |time| *time as f64 / 1e6)
    };
    json!({
        "count": times.len(), "p50_ms": at(500), "p99_ms": at(990), "p999_ms": at(999), "max_ms": at(1000),
    })
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

const WARMING: usize = 0;
const COUNTING: usize = 1;
const STOPPED: usize = 2;

fn drive(
    address: SocketAddr,
    requests: &Requests,
    threads: usize,
    connections: usize,
    warmup: Duration,
    seconds: Duration,
    shedding: bool,
) {
    let phase = AtomicUsize::new(WARMING);
    let (counted, window) = thread::scope(|scope| {
        let share = |thread| connections / threads + usize::from(thread < connections % threads);
        let drivers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let phase = &phase;
                    move || drive_connections(address, requests, share(thread), shedding, phase)
                })
            })
            .collect();
        thread::sleep(warmup);
        phase.store(COUNTING, Ordering::Relaxed);
        println!("begin");
        let begin = Instant::now();
        thread::sleep(seconds);
        phase.store(STOPPED, Ordering::Relaxed);
        let window = begin.elapsed();
        println!("end");
        let counted: Vec<_> = drivers.into_iter().map(|driver| driver.join().expect("no panic")).collect();
        (counted, window)
    });
    let reconnects: usize = counted.iter().map(|one| one.reconnects).sum();
    let shed: usize = counted.iter().map(|one| one.shed).sum();
    let mut figures = summary(counted.into_iter().flat_map(|one| one.times).collect());
    figures["seconds"] = json!(window.as_secs_f64());
    figures["reconnects"] = json!(reconnects);
    figures["shed"] = json!(shed);
    println!("{figures}");
}

struct Connection<'a> {
    stream: mio::net::TcpStream,
    request: &'a [u8],
    sent: Instant,
    answer: Vec<u8>,
}

enum Received {
    Whole,
    /// A complete 503.
    Shed,
    Part,
    /// The server closed the connection before it responded.
    Closed,
}

impl<'a> Connection<'a> {
    fn open(address: SocketAddr, poll: &Poll, token: Token) -> Self {
        let stream = stream(address, poll, token);
        Self { stream, request: &[], sent: Instant::now(), answer: Vec::with_capacity(MAX_RESPONSE_BYTES) }
    }

    /// Sends a request in one write, because it is far smaller than the buffer of a socket. If the server has closed the connection,
    /// the next read returns [`Received::Closed`].
    fn send(&mut self, request: &'a [u8]) {
        self.request = request;
        self.sent = Instant::now();
        let _ = self.stream.write_all(request);
    }

    fn send_again(&mut self, address: SocketAddr, poll: &Poll, token: Token) {
        self.stream = stream(address, poll, token);
        self.stream.write_all(self.request).expect("room for one small request");
    }

    /// Reads the available bytes. A short read means that the socket is empty (epoll(7)).
    fn receive(&mut self, buffer: &mut [u8], shedding: bool) -> Received {
        loop {
            match self.stream.read(buffer) {
                Ok(read @ 1..) => {
                    self.answer.extend_from_slice(&buffer[..read]);
                    if is_whole(&self.answer, shedding) {
                        let received = if is_shed(&self.answer) { Received::Shed } else { Received::Whole };
                        self.answer.clear();
                        return received;
                    }
                    if read < buffer.len() {
                        return Received::Part;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Part,
                closed => {
                    assert!(self.answer.is_empty(), "an answer was cut short: {closed:?}");
                    return Received::Closed;
                }
            }
        }
    }
}

fn stream(address: SocketAddr, poll: &Poll, token: Token) -> mio::net::TcpStream {
    let stream = connect(address);
    stream.set_nonblocking(true).expect("a socket can be");
    let mut stream = mio::net::TcpStream::from_std(stream);
    poll.registry().register(&mut stream, token, Interest::READABLE).expect("a socket can be watched");
    stream
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server takes connections");
    stream.set_nodelay(true).expect("a socket can be");
    stream
}

/// The measurements of one thread.
#[derive(Default)]
struct ThreadCounts {
    /// The time of each response within the window, in nanoseconds.
    times: Vec<u64>,
    shed: usize,
    reconnects: usize,
}

fn drive_connections(
    address: SocketAddr,
    requests: &Requests,
    connections: usize,
    shedding: bool,
    phase: &AtomicUsize,
) -> ThreadCounts {
    let mut poll = Poll::new().expect("epoll");
    let mut open: Vec<_> =
        (0..connections).map(|token| Connection::open(address, &poll, Token(token))).collect();
    for connection in &mut open {
        connection.send(requests.next());
    }
    let mut events = Events::with_capacity(connections);
    let mut buffer = vec![0; MAX_RESPONSE_BYTES];
    let mut counted = ThreadCounts::default();
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(50))).expect("epoll");
        for event in &events {
            let connection = &mut open[event.token().0];
            let shed = match connection.receive(&mut buffer, shedding) {
                Received::Part => continue,
                Received::Closed => {
                    counted.reconnects += 1;
                    connection.send_again(address, &poll, event.token());
                    continue;
                }
                Received::Whole => false,
                Received::Shed => true,
            };
            match phase.load(Ordering::Relaxed) {
                WARMING => {}
                COUNTING if shed => counted.shed += 1,
                COUNTING => counted.times.push(nanoseconds(connection.sent)),
                _ => return counted,
            }
            connection.send(requests.next());
        }
        if phase.load(Ordering::Relaxed) == STOPPED {
            return counted;
        }
    }
}

fn probe(address: SocketAddr, interval: Duration, seconds: Duration, probes: &[String]) {
    let deadline = Instant::now() + seconds;
    let figures: Map<String, Value> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for probe in probes {
            let mut parts = probe.split('=');
            let mut part = || parts.next().unwrap_or_else(|| panic!("`{probe}` isn't NAME=new|kept=FILE"));
            let (name, kept, requests) = (part(), part() == "kept", Requests::read(part()));
            let ask = move || probe_steadily(address, interval, deadline, kept, &requests);
            threads.push((name.to_owned(), scope.spawn(ask)));
        }
        let join =
            |(name, thread): (String, ScopedJoinHandle<'_, _>)| (name, thread.join().expect("no panic"));
        threads.into_iter().map(join).map(|(name, times)| (name, summary(times))).collect()
    });
    println!("{}", Value::Object(figures));
}

fn probe_steadily(
    address: SocketAddr,
    interval: Duration,
    deadline: Instant,
    kept: bool,
    requests: &Requests,
) -> Vec<u64> {
    let mut times = Vec::new();
    let mut connection = connect(address);
    while Instant::now() < deadline {
        thread::sleep(interval);
        let request = requests.next();
        let begin = Instant::now();
        if !kept {
            connection = connect(address);
        }
        // Repeats only if the server has closed a kept connection.
        while !send_and_receive(&mut connection, request) {
            connection = connect(address);
        }
        times.push(nanoseconds(begin));
    }
    times
}

/// Sends a request and waits for the whole response. `false` if the server closes the connection before it responds.
fn send_and_receive(connection: &mut TcpStream, request: &[u8]) -> bool {
    let _ = connection.write_all(request);
    let mut answer = Vec::with_capacity(MAX_RESPONSE_BYTES);
    let mut buffer = [0; 4096];
    while !is_whole(&answer, false) {
        match connection.read(&mut buffer) {
            Ok(read @ 1..) => answer.extend_from_slice(&buffer[..read]),
            closed => {
                assert!(answer.is_empty(), "an answer was cut short: {closed:?}");
                return false;
            }
        }
    }
    true
}
