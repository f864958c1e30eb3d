"""Case 66: requests that are wrong in every way a seed finds, many at a time, over connections that the service keeps."""

import json
import multiprocessing
import random
import selectors
import socket
import time
import unicodedata
from collections import Counter

from deployment import SEED, Deployment, amount, expect, reserve_descriptors
from host import claims

METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", "get", "P\0ST", "", "X" * 300]
PATHS = [
    "/identity-token", "/oauth-assertion", "/bundle", "/intercom-user-jwt", "/.well-known/jwks.json", "/openapi.yaml", "/",
    "/keysets/web/jwks.json", "/keysets/../web", "/%00", "/%zz", "//", "*", "http://evil.example/identity-token", "", "/\x7f",
    "/identity-token?a=b&c", "/" + "a" * 9000, "/identity-token/../livez", "/é", "/identity-token#x",
]
VERSIONS = ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9", "http/1.1", "HTTP/1", "", "HTTX/1.1"]
ENDS = ["\r\n"] * 20 + ["\n", "\r", "\r\r\n", "\n\r", "\0\r\n"]
HEADERS = [
    "Content-Length: 5", "Content-Length: 0", "Content-Length: -1", "Content-Length: +5", "Content-Length: 5, 5",
    "Content-Length: 99999999999999999999", "Content-Length: 3000000", "Content-Length: ", "Content-Length: 0x10",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity", "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked", " folded: line", "no colon", ": no name", "Name with space: x", "N\0l: x", "Host: second.example",
    "Host: a b", "Connection: close", "Connection: upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Expect: 100-continue",
    "Expect: nonsense", "Accept: application/jwt", "Accept: text/html;q=x", "Accept: ,,,", "Content-Type: text/plain",
    "Content-Type: application/json; charset=latin1", "Content-Type: \xff\xfe", "Content-Encoding: gzip", "Authorization: Basic eDp5",
    "Authorization: Bearer", "Authorization: Bearer \xff", "Authorization: bearer x y", "X-Request-Id: a\x1b[31mb", "Cookie: " + "c" * 5000,
    "Range: bytes=0-1", "If-None-Match: *", "If-None-Match: \"", "X-Forwarded-For: 127.0.0.1", "X: " + "y" * 20000, "Trailer: X", "TE: trailers",
]
VALUES = [
    None, True, 0, -1, 1.5, 1e308, 2**64, "", " a", "a\0b", "\u202e", "null", "a" * 10000, [], {}, [[]], {"a": {}}, "\ud800", "identity.web",
    ["a", 5], "\r\nX: y",
]
NAMES = ["sub", "profile", "ttl", "claims", "bundle", "user_id", "rejected_token", "unknown", "", "sub\0", "Sub", "__proto__"]
LITERALS = [b"1e400", b"NaN", b"-", b"01", b"1e", b"\"\\u12\"", b"\"\\ud800\"", b"'a'", b"\xff\xfe", b"tru", b"[" * 300, b"{\"a\":" * 300]
FRAMES = [
    b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhell", b"g\r\n", b"ffffffffffffffff\r\nx", b"10000000000000000\r\nx", b"-1\r\n", b"5;" + b"x" * 5000,
    b"5\nhello\n0\n\n", b"0\r\nTrailer: x\r\n\r\n", b"0\r\n" + b"T: x\r\n" * 500, b"\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"0x5\r\nhello\r\n",
]


class Generator:
    def __init__(self, seed, api_key):
        self.random, self.api_key = random.Random(seed), api_key

    def __call__(self):
        kinds = [self.binary, self.line, self.headers, self.body, self.body, self.body, self.lengths, self.chunked, self.mutated]
        return self.random.choice(kinds)()

    def text(self, request):
        return request.encode("latin-1", "replace")

    def head(self, length=None, more=()):
        lines = ["POST " + self.random.choice(PATHS[:4]) + " HTTP/1.1", "Host: chaos", "Content-Type: application/json"]
        lines.append(f"Authorization: Bearer {self.api_key}")
        lines += [f"Content-Length: {length}"] if length is not None else []
        return self.text("\r\n".join([*lines, *more]) + "\r\n\r\n")

    def binary(self):
        start = self.random.choice([b"", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00", b"GET ", b"\r\n" * 20])
        return start + self.random.randbytes(self.random.randrange(400)) + b"\r\n\r\n"

    def line(self):
        pick = self.random.choice
        line = pick([" ", " ", " ", "  ", "\t", ""]).join([pick(METHODS), pick(PATHS), pick(VERSIONS)])
        return self.text(f"{line}{pick(ENDS)}Host: chaos{pick(ENDS)}{pick(ENDS)}")

    def headers(self):
        count = self.random.choice([1, 2, 3, 5, 150])
        lines = [self.random.choice(HEADERS) for _ in range(count)]
        host = self.random.choice([["Host: chaos"]] * 4 + [[], ["Host: a", "Host: b"], ["Host: "]])
        method = self.random.choice(["GET /livez", "POST /identity-token"])
        lines = [f"{method} HTTP/1.1", *host, *lines]
        return self.text("".join(line + self.random.choice(ENDS) for line in [*lines, ""]))

    def json(self):
        members = {self.random.choice(NAMES): self.random.choice(VALUES) for _ in range(self.random.randrange(4))}
        members.setdefault("sub", f"user-{self.random.random()}")
        text = json.dumps(members).encode()
        kind = self.random.randrange(6)
        if kind == 0:
            return text[: self.random.randrange(len(text))]
        if kind == 1:
            return b'{"sub": ' + self.random.choice(LITERALS) + b"}"
        if kind == 2:
            return text[:-1] + b', "sub": "twice"}'
        if kind == 3:
            at = self.random.randrange(len(text))
            return text[:at] + self.random.randbytes(1) + text[at + 1 :]
        if kind == 4:
            return self.random.choice([b"[", b"\xef\xbb\xbf", b"", b'"'] + LITERALS) + text + self.random.choice([b"", b"]", b"{}", b"\0"])
        return text

    def body(self):
        body = self.json()
        return self.head(len(body)) + body

    def lengths(self):
        body = self.json()
        return self.head(len(body) + self.random.choice([-20, -1, 1, 20, 5000, 2**31])) + body

    def chunked(self):
        more = self.random.choice([["Transfer-Encoding: chunked"]] * 4 + [["Transfer-Encoding: chunked", "Content-Length: 7"]])
        return self.head(more=more) + b"".join(self.random.choice(FRAMES) for _ in range(self.random.randrange(1, 4)))

    def mutated(self):
        request = bytearray(self.body())
        for _ in range(self.random.choice([1, 1, 2, 8])):
            at = self.random.randrange(len(request))
            request[at : at + self.random.randrange(3)] = self.random.randbytes(self.random.randrange(3))
        return bytes(request)


ALLOWED_5XX = [b'"overloaded"']
"""It may say that it has too much to do; nothing else is ever its own fault."""


def is_sound(request, body):
    """Whether a token that came of it is what was asked, by another reader of JSON, and within the profile's rules."""

    def once(members):
        assert len(dict(members)) == len(members), "a member stands there twice"
        return dict(members)

    try:
        asked = json.loads(request.partition(b"\r\n\r\n")[2], object_pairs_hook=once)
        said = claims(json.loads(body)["token"])
    except (ValueError, AssertionError):
        return False
    if not isinstance(asked, dict):
        return False
    sub = said["sub"]
    hidden = any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in sub)
    return (
        said.keys() == {"iss", "sub", "aud", "iat", "exp"}
        and sub == asked.get("sub") == sub.strip()
        and 1 <= len(sub) <= 200
        and not hidden
        and said["exp"] - said["iat"] == asked.get("ttl", 3600)
        and 60 <= said["exp"] - said["iat"] <= 3600
        and asked.keys() <= {"sub", "profile", "ttl", "claims"}
        and not asked.get("claims")
    )


CONNECTIONS = 1_500
"""Of each of two processes."""

HANG = 15.0
"""Seconds for which a connection is left open. The service ends each of its waits after five; of three thousand that end in
the same moment, the last was seen to be read two seconds later where two cores had other work too."""


def send_malformed(seed, port, api_key, count, results):
    """Sends `count` requests over many connections, as one in six waits five seconds; statuses, unexpected answers, hangs."""
    generate, selector = Generator(seed, api_key), selectors.DefaultSelector()
    statuses, unexpected, hangs, closed, sent, tokens = Counter(), [], [], 0, 0, 0

    class Client:
        socket, since, request, data, is_kept = None, 0.0, b"", b"", False

    def close(client):
        nonlocal closed
        closed += 1
        selector.unregister(client.socket)
        client.socket.close()
        client.socket = None

    def send(client):
        nonlocal sent
        client.request, client.data, client.since = generate(), b"", time.monotonic()
        sent += 1
        if client.socket is None:
            client.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
            client.socket.setblocking(False)
            selector.register(client.socket, selectors.EVENT_READ, client)
        try:
            client.socket.send(client.request)
        except OSError:
            close(client)

    def read(client):
        """Whether the client is free for the next request."""
        nonlocal tokens
        try:
            data = client.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        client.data += data
        head, found, body = client.data.partition(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length: " in lower else 0
        whole = found and (len(body) >= length or client.request.startswith(b"HEAD"))
        if whole and not head.startswith(b"HTTP/1.1 100"):
            status = int(head[9:12])
            statuses[status] += 1
            if status >= 500 and not any(allowed in body for allowed in ALLOWED_5XX) and len(unexpected) < 5:
                unexpected.append(f"{client.request[:200]!r} got {head[:40]!r} {body[:100]!r}")
            if status == 200 and body.startswith(b'{"token"'):
                tokens += 1
                if not is_sound(client.request, body) and len(unexpected) < 5:
                    unexpected.append(f"{client.request[:600]!r} got a token: {body[:600]!r}")
        elif data:
            return False
        if not data or b"connection: close" in lower or len(body) > length:
            close(client)
        return True

    clients = [Client() for _ in range(CONNECTIONS)]
    for client in clients:
        send(client)
    last_look = time.monotonic()
    while any(client.socket for client in clients):
        for key, _ in selector.select(0.1):
            if read(key.data):
                if sent < count:
                    send(key.data)
                elif key.data.socket:
                    close(key.data)
        now = time.monotonic()
        if now - last_look > 0.2:
            last_look = now
            for client in clients:
                if client.socket is None and sent < count:
                    send(client)
                elif client.socket and now - client.since > HANG:
                    hangs.append(f"{client.request[:200]!r} was left open for {now - client.since:.1f} s")
                    close(client)
                    # Many hangs would take hours.
                    count = count if len(hangs) < 20 else sent
    results.put((sent, statuses, unexpected, hangs, closed, tokens))


def malformed_requests():
    count = amount(100_000, 5_000_000)
    reserve_descriptors(CONNECTIONS + 500)
    limits = "limits.remint_burst = 1000000\nlimits.remints_per_minute = 1000000"
    with Deployment(limits) as service:
        service.start()
        memory, results = [], multiprocessing.Queue()
        senders = [
            multiprocessing.Process(target=send_malformed, args=(SEED + n, service.port, service.api_key, count // 2, results), daemon=True)
            for n in range(2)
        ]
        begin = time.monotonic()
        for process in senders:
            process.start()
        while any(process.is_alive() for process in senders) and results.qsize() < 2:
            time.sleep(0.5)
            memory.append(service.memory())
        ended = [results.get(timeout=30) for _ in senders]
        seconds = time.monotonic() - begin
        recovered = service.recovers()
        sent, closed, tokens = (sum(end[n] for end in ended) for n in (0, 4, 5))
        statuses = sum((end[1] for end in ended), Counter())
        unexpected, hangs = ([line for end in ended for line in end[n]] for n in (2, 3))
        half = len(memory) // 2
        grown = (max(memory[half:]) - max(memory[:half])) / 2**20
        by_status = " ".join(f"{status}:{statuses[status]}" for status in sorted(statuses))
        expect(not unexpected, f"{len(unexpected)} unexpected answers: {unexpected}")
        expect(not hangs, f"{len(hangs)} hangs: {hangs[:3]}")
        expect(service.panics() == 0, f"{service.panics()} panics")
        expect(sent >= count // 2 * 2, f"only {sent} were sent")
        expect(tokens > 0, "no request was good: nothing was seen of what is taken")
        expect(grown < 8, f"memory grew by {grown:.1f} MiB in the second half")
        seen = (
            f"{sent} in {seconds:.0f} s over {closed} connections, {by_status}; 0 panics, 0 unexpected 5xx, 0 hangs; {tokens} tokens, each as asked and within "
            f"the rules; memory "
            f"{max(memory) / 2**20:.0f} MiB, {grown:+.1f} in the second half"
        )
        return seen, recovered
