"""Cases 31, 51 to 53, 57, 58, 63, 64 and 100: clients that are slow, strange or too many."""

import resource
import selectors
import socket
import time

from deployment import FULL, Connection, Deployment, amount, expect, get, ms, patient, percentile, post, reserve_descriptors
from load import Load, fetching, minting

GONE_WITHIN = 6.0
"""Seconds for the service to be rid of a client that does nothing: five, and one to notice."""


class Slow:
    """A client of one pattern: what it says at first, and what it lets drip."""

    def __init__(self, pattern, begins, drips=b"", reads=True):
        self.pattern, self.begins, self.drips, self.reads = pattern, begins, drips, reads


FORM_HEAD = (
    b"POST /oauth2/token HTTP/1.1\r\nHost: chaos\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 12000\r\n\r\n"
)


def patterns(api_key):
    body = post("/identity-token", b'{"sub": "user-1"}', api_key)
    head, _, _ = body.partition(b"\r\n\r\n")
    half = head[:100]
    return [
        Slow("says nothing", b""),
        Slow("half a request line", b"POST /iden"),
        Slow("half a head", half),
        Slow("a head that drips", b"GET /livez HTTP/1.1\r\nX-Drip: ", drips=b"a"),
        Slow("half an HTTP/2 preface", b"PRI * HTTP/2.0\r\n"),
        Slow("the first bytes of TLS", b"\x16\x03\x01\x02\x00"),
        Slow("no body", head + b"\r\n\r\n"),
        Slow("a body that drips", head.replace(b"Content-Length: 17", b"Content-Length: 9000") + b"\r\n\r\n{", drips=b" "),
        Slow("idle after an answer", get("/.well-known/jwks.json")),
        Slow("a fat head that never ends", b"GET /livez HTTP/1.1\r\nX-Fat: " + b"a" * 8000),
        Slow("a fat head, and a fat body that nobody asked for", get("/livez", f"X-Fat: {'a' * 7000}\r\nContent-Length: 16000\r\n") + b"a" * 16000),
        Slow("a large body without a valid credential", post("/identity-token", b"a" * 16000, "wrong")),
        Slow("a form without a credential that drips", FORM_HEAD + b"a" * 8000, drips=b"a"),
        Slow("reads nothing", get("/openapi.yaml") * 100, reads=False),
    ]


def slow_clients():
    count = amount(2_000, 10_000)
    reserve_descriptors(count + 500)
    with Deployment() as service:
        service.start()
        service.recovers()
        base = service.descriptors()
        kinds = patterns(service.api_key)
        selector, open_since, lasted, silent = selectors.DefaultSelector(), {}, {}, []
        memory, last_drip = [service.memory()], time.monotonic()

        def look():
            """Notes who was closed, and lets drip what drips."""
            nonlocal last_drip
            for key, _ in selector.select(0):
                client = key.fileobj
                if ended(client.recv, 65536):
                    selector.unregister(client)
                    pattern, since = key.data.pattern, open_since.pop(client)
                    lasted[pattern] = max(lasted.get(pattern, 0), time.monotonic() - since)
                    client.close()
            if time.monotonic() - last_drip > 0.5:
                last_drip = time.monotonic()
                memory.append(service.memory())
                for key in list(selector.get_map().values()):
                    if key.data.drips:
                        ended(key.fileobj.send, key.data.drips)

        with Load(service.port, minting(service.api_key), rate=20, connections=5).start() as load:
            for n in range(count):
                kind = kinds[n % len(kinds)]
                client = socket.socket()
                # A small window, so that who reads nothing is soon felt.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", service.port))
                client.setblocking(False)
                ended(client.send, kind.begins)
                if kind.reads:
                    selector.register(client, selectors.EVENT_READ, kind)
                    open_since[client] = time.monotonic()
                else:
                    silent.append(client)
                if n % 50 == 0:
                    look()
                    # No faster than it can take them in: its five seconds begin when it does, ours when they ask.
                    time.sleep(amount(0.05, 0.025))
            last_open = time.monotonic()
            # Of who reads nothing only the service knows when it is cut off: its descriptor is gone.
            while (open_since or service.descriptors() > base + 5) and time.monotonic() - last_open < 20:
                look()
                time.sleep(0.05)
            gone = time.monotonic() - last_open
            seen_by_others = load.stop()
        patience = time.monotonic() + 2
        while service.descriptors() > base + 2 and time.monotonic() < patience:
            time.sleep(0.05)
        after = service.descriptors()
        for client in silent:
            client.close()
        recovered = service.recovers()
        expect(not open_since, f"{len(open_since)} of {count} were never closed")
        longest = max(lasted, key=lasted.get)
        expect(lasted[longest] < patient(GONE_WITHIN), f"{longest}: open for {lasted[longest]:.1f} s")
        expect(gone < patient(GONE_WITHIN), f"the last was closed after {gone:.1f} s")
        expect(after <= base + 2, f"{after} descriptors, {base} before")
        # One that was answered takes 12.5 KiB. The goal is that of a release build with 10,000 of them.
        each = (max(memory) - memory[0]) / count / 2**10
        expect(each < 12.5, f"{each:.1f} KiB a connection, {max(memory) / 2**20:.1f} MiB in all")
        expect(not FULL or max(memory) < 48 * 2**20, f"{max(memory) / 2**20:.1f} MiB, {each:.1f} KiB a connection")
        expect(not seen_by_others.lost, f"others lost {seen_by_others.lost} answers")
        expect(set(seen_by_others.statuses) == {200}, f"others saw {seen_by_others.statuses}")
        expect(service.panics() == 0, "it panicked")
        seen = (
            f"{count} in {len(kinds)} patterns: each closed within {lasted[longest]:.1f} s, all {gone:.1f} s after the last came; "
            f"{max(memory) / 2**20:.0f} MiB at most, {each:.1f} KiB for each (asserted: 12.5; by FULL=1, 48 MiB in all), "
            f"{after} descriptors ({base} before); others were served meanwhile, p99 {ms(percentile(seen_by_others.took, 0.99))}"
        )
        return seen, recovered


def ended(act, argument):
    """Whether the connection is over. One on which nothing comes in time is not."""
    try:
        return act(argument) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True


def connection_cap():
    """A flood of connections that ask for nothing closes its own; who asks is answered."""
    cap = 500
    reserve_descriptors(2 * cap + 500)
    with Deployment(f"limits.connections = {cap}") as service:
        service.start()
        holding = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(cap)]
        accepted = 'tokenmint_connections{listener="minting"}'
        patience = time.monotonic() + 20
        while service.metrics()[accepted] < cap:
            expect(time.monotonic() < patience, f"only {service.metrics()[accepted]:.0f} of {cap} are accepted")
            time.sleep(0.02)
        begin = time.monotonic()
        status, _, _ = Connection(service.port).ask(get("/keysets/web/jwks.json"))
        answered_after = time.monotonic() - begin
        expect(status == 200 and answered_after < 1, f"one more than {cap}: {status} after {answered_after:.1f} s")
        holding[0].settimeout(1)
        expect(ended(holding[0].recv, 1), "the one that idled longest is still open, or was told something")
        for _ in range(cap):
            holding.append(socket.create_connection(("127.0.0.1", service.port)))
        status, _, _ = Connection(service.port).ask(get("/keysets/web/jwks.json"))
        expect(status == 200, f"behind a flood: {status}")
        status, _, _ = Connection(service.ops).ask(get("/livez"))
        expect(status == 200, f"/livez of the ops listener: {status}")
        refused = service.metrics()['tokenmint_connections_refused_total{listener="minting"}']
        expect(refused >= 1, "it was not counted")
        for client in holding:
            client.close()
        return f"the {cap + 1}st is answered after {ms(answered_after)}, the oldest closed and counted; ops answers", service.recovers()


def no_descriptors_left():
    with Deployment() as service:
        service.start()
        watcher = Connection(service.ops)
        watcher.ask(get("/livez"))
        _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (service.descriptors() + 10, hard))
        clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(120)]
        patience = time.monotonic() + 20
        while "can't accept connections" not in service.log.read_text():
            expect(time.monotonic() < patience, "the limit was not reached")
            time.sleep(0.02)
        cpu, begin = service.cpu(), time.monotonic()
        while time.monotonic() - begin < 3:
            status, _, _ = watcher.ask(get("/livez"))
            expect(status == 200, f"/livez of the ops listener: {status}")
            time.sleep(0.5)
        busy = (service.cpu() - cpu) / (time.monotonic() - begin)
        expect(busy < 0.2, f"it uses {busy:.0%} of a core while it can't accept")
        for client in clients:
            client.close()
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        recovered = service.recovers(within=patient(2))
        return f"{busy:.1%} of a core; the open ops connection answers throughout", recovered


def strange_protocols():
    """Case 57 and 58."""
    with Deployment() as service:
        service.start()
        frame = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
        headers_frame = b"\0\0\1\1\4\0\0\0\1\x82"
        hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160)
        says = {
            "an HTTP/2 preface": frame,
            "an HTTP/2 reset flood": frame + (headers_frame + b"\0\0\4\3\0\0\0\0\1\0\0\0\x08") * 2000,
            "an HTTP/2 ping flood": frame + (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 2000,
            "a TLS hello": hello,
            "TRACE": b"TRACE /identity-token HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
            "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            "HTTP/0.9": b"GET /livez\r\n\r\n",
            "a whole URL": b"GET http://other.example/livez HTTP/1.1\r\nHost: other.example\r\n\r\n",
        }
        seen = {}
        for name, text in says.items():
            begin, client = time.monotonic(), socket.create_connection(("127.0.0.1", service.port), timeout=8)
            answer = b""
            try:
                client.sendall(text)
                while b"\r\n\r\n" not in answer and (data := client.recv(4096)):
                    answer += data
                # TRACE is a whole request, so that its connection goes on; whatever else this is, nothing may follow it.
                while name != "TRACE" and client.recv(4096):
                    pass
            except OSError as error:
                expect(not isinstance(error, TimeoutError), f"{name}: open for {time.monotonic() - begin:.0f} s")
            client.close()
            seen[name] = answer[9:12].decode() or "closed"
            expect(seen[name] in ("closed", "400", "405"), f"{name}: {answer[:80]!r}")
        expect(service.panics() == 0, "it panicked")
        return "; ".join(f"{name}: {what}" for name, what in seen.items()), service.recovers()


def concurrent_jwks_fetches():
    count, rounds = 1_000, amount(3, 30)
    reserve_descriptors(count + 500)
    with Deployment() as service:
        service.start()
        return flood(service, service.port, "/keysets/web/jwks.json", count, rounds, "one body")


def concurrent_scrapes():
    count, rounds = 1_000, amount(2, 20)
    reserve_descriptors(count + 500)
    with Deployment() as service:
        service.start()
        service.recovers()
        # Whatever callers invent, no series comes of it.
        names = [f"/nowhere-{n}" for n in range(300)]
        connection = Connection(service.port)

        def invent(n):
            return get(names[n], f"User-Agent: agent-{n}\r\nAuthorization: Bearer key-{n}\r\n") if n % 2 else service.mint(names[n])

        # One of each outcome first.
        for n in range(2):
            connection.ask(invent(n))
            service.recovers()
        service.metrics()
        before = len(service.metrics())
        for n in range(300):
            connection.ask(invent(n))
        after = len(service.metrics())
        expect(after <= before + 3, f"{before} series became {after}")
        expect(after <= 500, f"{after} series")
        seen, recovered = flood(service, service.ops, "/metrics", count, rounds, None)
        return f"{seen}; {after} series, {before} before 300 invented names", recovered


def flood(service, port, path, count, rounds, same):
    """All connections ask at once, several times over; one that was closed for idling, behind a slow client, asks anew."""
    began = time.monotonic()
    keep = same is not None
    load = Load(port, fetching(path), connections=count, count=count * rounds, keep_bodies=keep, again=True)
    seen = load.start().wait()
    expect(not seen.lost and set(seen.statuses) == {200}, f"{seen.lost} lost, {dict(seen.statuses)}")
    expect(not seen.crossed, f"{seen.crossed} crossed answers")
    expect(same is None or len(seen.bodies) == 1, f"{len(seen.bodies)} bodies")
    expect(service.panics() == 0, "it panicked")
    p99 = percentile(seen.took, 0.99)
    # The clients share one Python process and the cores with the service: this is mostly their own queue. Who finds no place
    # among those that wait to be accepted would try again after a second, and hold all up that come behind it.
    expect(p99 < patient(1), f"p99 {ms(p99)}")
    took = time.monotonic() - began
    return f"{count} at once, {rounds} times: all 200 in {took:.1f} s, p99 {ms(p99)}{', one body' if same else ''}", service.recovers()
