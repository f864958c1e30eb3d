"""Many requests at a set pace over many connections, from one process: open loop, so that a slow answer keeps nobody
from asking, and each answer held to the request id of its question."""

import multiprocessing
import os
import selectors
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass, field

EVERY_ANSWER_WITHIN = 15


@dataclass
class Seen:
    """What came of a load."""

    statuses: Counter = field(default_factory=Counter)
    """By status, for those that were answered."""
    lost: int = 0
    """Sent, and then the connection ended or nothing came."""
    crossed: int = 0
    """Answers with the request id of another question."""
    unexpected: list = field(default_factory=list)
    """The first few answers with a status that the question should not have."""
    took: list = field(default_factory=list)
    """Seconds from when each 200 was due until it was there."""
    first_bodies: dict = field(default_factory=dict)
    """One body of each status."""
    heads: dict = field(default_factory=dict)
    bodies: set = field(default_factory=set)
    seconds: float = 0.0
    """For how long it asked."""

    @property
    def asked(self):
        return sum(self.statuses.values()) + self.lost


class Client:
    def __init__(self):
        self.socket, self.is_kept, self.request, self.data = None, False, b"", b""
        self.id, self.due, self.wanted = None, 0.0, ()


class Load:
    """`questions(n)` gives the n-th request as (method and path, headers, body, the statuses that are right). With `again`
    it does as every HTTP client: what finds a kept connection closed goes out once more (RFC 9112, section 9.3.1)."""

    def __init__(self, port, questions, rate=None, connections=50, count=None, keep_bodies=False, again=False):
        self.port, self.questions, self.rate, self.count = port, questions, rate, count
        self.connections, self.keep_bodies, self.again = connections, keep_bodies, again
        self.end, self.outstanding = multiprocessing.Event(), multiprocessing.Value("l", 0, lock=False)
        self.results = multiprocessing.Queue()
        self.process = multiprocessing.Process(target=self._drive, daemon=True)

    def start(self):
        self.process.start()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()

    def stop(self):
        """Ends it and gives what was seen."""
        self.end.set()
        return self.wait()

    def wait(self):
        seen = self.results.get(timeout=600)
        self.process.join()
        return seen

    def _drive(self):
        seen, selector, idle, n = Seen(), selectors.DefaultSelector(), deque(), 0
        idle.extend(Client() for _ in range(self.connections))
        try:
            # Ahead of the service, so that a busy machine slows down what is measured and not the questions.
            os.nice(-10)
        except PermissionError:
            pass
        begin = time.monotonic()
        last_look = begin

        def connect(client):
            client.socket = socket.create_connection(("127.0.0.1", self.port), timeout=5)
            # A whole request fits, so that to send never waits.
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            client.socket.setblocking(False)
            client.is_kept = False
            selector.register(client.socket, selectors.EVENT_READ, client)

        def close(client):
            selector.unregister(client.socket)
            client.socket.close()
            client.socket = None

        def done(client):
            client.id = None
            self.outstanding.value -= 1
            idle.append(client)

        def lose(client):
            close(client)
            if client.id is not None and self.again and client.is_kept and not client.data:
                connect(client)
                client.socket.sendall(client.request)
            elif client.id is not None:
                seen.lost += 1
                done(client)

        def send(client):
            target, headers, body, client.wanted = self.questions(n)
            client.id, client.data = f"q{n}", b""
            client.due = begin + n / self.rate if self.rate else time.monotonic()
            self.outstanding.value += 1
            head = f"{target} HTTP/1.1\r\nHost: chaos\r\nX-Request-Id: q{n}\r\n{headers}"
            if body is not None and "Content-Length" not in headers:
                head += f"Content-Length: {len(body)}\r\n"
            client.request, client.is_kept = (head + "\r\n").encode() + (body or b""), client.socket is not None
            try:
                if client.socket is None:
                    connect(client)
            except OSError:
                seen.lost += 1
                done(client)
                return
            try:
                client.socket.sendall(client.request)
            except OSError:
                # The answer may lie there all the same, as an early 413 does.
                pass

        def read(client):
            try:
                data = client.socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                lose(client)
                return
            client.data += data
            head, found, body = client.data.partition(b"\r\n\r\n")
            if not found or client.id is None:
                return
            lower = head.lower()
            length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length: " in lower else 0
            if len(body) < length:
                return
            status = int(head[9:12])
            seen.statuses[status] += 1
            seen.first_bodies.setdefault(status, body[:300])
            seen.heads.setdefault(status, lower)
            ids = [line for line in lower.split(b"\r\n") if line.startswith(b"x-request-id: ")]
            # A proxy's own answers have none.
            seen.crossed += ids not in ([], [b"x-request-id: " + client.id.encode()])
            if status == 200:
                seen.took.append(time.monotonic() - client.due)
                if self.keep_bodies:
                    seen.bodies.add(body)
            if status not in client.wanted:
                if len(seen.unexpected) < 3:
                    seen.unexpected.append(f"{status} for {client.wanted}: {body[:120]!r}")
            done(client)
            if b"connection: close" in lower:
                close(client)

        while True:
            now = time.monotonic()
            over = self.end.is_set() or n == self.count
            if not over:
                seen.seconds = now - begin
            while not over and idle and n != self.count and (self.rate is None or begin + n / self.rate <= now):
                send(idle.popleft())
                n += 1
            if over and (len(idle) == self.connections or now - begin > 600):
                break
            until_due = 0.05 if over or self.rate is None else min(0.05, max(0.0, begin + n / self.rate - now))
            for key, _ in selector.select(until_due if idle or over else 0.05):
                read(key.data)
            if now - last_look > 1:
                last_look = now
                for client in [key.data for key in selector.get_map().values()]:
                    if client.id is not None and now - client.due > EVERY_ANSWER_WITHIN:
                        lose(client)
        self.results.put(seen)


def minting(api_key, prefix="user"):
    """Each for another subject, and each of them should be 200."""
    headers = f"Authorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
    return lambda n: ("POST /identity-token", headers, f'{{"sub": "{prefix}-{n}"}}'.encode(), (200,))


def fetching(path):
    return lambda n: (f"GET {path}", "", None, (200,))
