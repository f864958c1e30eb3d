"""Cases 46, 84, 97 and 98: a host that swaps, a Salesforce by another clock, a fifth of a core, 64 MB of memory."""

import contextlib
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
from email.utils import formatdate

from clients import patterns
from deployment import Connection, Deployment, amount, expect, free_port, get, ms, patient, percentile, post, reserve_descriptors, salesforce_at
from host import claims
from load import Load, minting

CGROUPS = pathlib.Path("/sys/fs/cgroup")


class LeftOut(Exception):
    """What this host doesn't let a test do."""


class Group:
    """A control group of its own: `wrap` starts a command in it. Of the kernel's first version or its second."""

    def __init__(self, controller, first, second):
        of_first = CGROUPS / controller
        name, settings = f"tokenmint-chaos-{os.getpid()}", first if of_first.is_dir() else second
        self.folder = (of_first if of_first.is_dir() else CGROUPS) / name
        try:
            if settings is second:
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
            self.folder.mkdir()
            for file, value in settings.items():
                (self.folder / file).write_text(str(value))
        except OSError as error:
            self.remove()
            raise LeftOut(f"this host gives no control group for {controller} ({error})") from None
        self.wrap = ["sh", "-c", f'echo $$ >{self.folder}/cgroup.procs && exec "$@"', "sh"]

    def remove(self):
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        deadline = time.monotonic() + 5
        while self.folder.exists() and time.monotonic() < deadline:
            self.remove()


def or_left_out(scenario):
    def play():
        try:
            return scenario()
        except LeftOut as reason:
            return f"left out: {reason}", None

    return play


@or_left_out
def throttled():
    """With a fifth of a core: what can't be signed in time is refused, and all else is answered."""
    fifth = {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 20_000}
    seconds = amount(6, 60)
    with Group("cpu", fifth, {"cpu.max": "20000 100000"}) as group, Deployment() as service:
        service.start(group.wrap)
        load = Load(service.port, minting(service.api_key), rate=2_000, connections=400).start()
        ops, took, end = Connection(service.ops), [], time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            status, _, _ = ops.ask(get("/readyz"))
            expect(status == 200, f"/readyz: {status}")
            took.append(time.monotonic() - begin)
            time.sleep(0.05)
        seen = load.stop()
        expect(set(seen.statuses) == {200, 503} and not seen.lost, f"{dict(seen.statuses)}, {seen.lost} lost")
        expect(b"retry-after: " in seen.heads[503], "503 without Retry-After")
        # It stands still for 80 of each 100 ms.
        worst, bound = percentile(took, 0.99), patient(1.0)
        expect(worst < bound, f"/readyz took {ms(worst)}")
        expect(service.panics() == 0, "it panicked")
        recovered = service.recovers(patient(10))
        rate = seen.statuses[200] / seen.seconds
        return (
            f"2000/s asked of a fifth of a core: {rate:.0f}/s signed, {seen.statuses[503]} refused with Retry-After, none lost; "
            f"/readyz p99 {ms(worst)} (asserted {ms(bound)})"
        ), recovered


@or_left_out
def in_64_mb():
    """Within its caps it isn't killed: as many connections as it takes, half of them hostile, and minting meanwhile."""
    most, hostile = 64 * 10**6, 1_700
    first, second = {"memory.limit_in_bytes": most}, {"memory.max": most}
    reserve_descriptors(hostile + 500)
    with Group("memory", first, second) as group, Deployment(server="limits.connections = 2000\nlimits.token_cache = \"8 MiB\"") as service:
        service.start(group.wrap)
        kinds = patterns(service.api_key)
        with contextlib.ExitStack() as held:
            for n in range(hostile):
                client = held.enter_context(socket.create_connection(("127.0.0.1", service.port)))
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.send(kinds[n % len(kinds)].begins)
                if n % 50 == 0:
                    time.sleep(0.02)
            seen = Load(service.port, minting(service.api_key), rate=None, connections=256, count=amount(5_000, 50_000)).start().wait()
            peak = service.memory()
        expect(service.process.poll() is None, "it was killed")
        # On a busy machine 256 at once are more than can be signed in time.
        expect(set(seen.statuses) <= {200, 503} and not seen.lost, f"{dict(seen.statuses)}, {seen.lost} lost")
        expect(seen.statuses[200] > seen.asked / 2, f"{dict(seen.statuses)}")
        recovered = service.recovers()
        return f"{hostile} hostile connections and {seen.statuses[200]} tokens over 256: alive, {peak / 10**6:.0f} MB resident of 64", recovered


@or_left_out
def swapping():
    """The kernel's list of swaps, as a host that swaps has it, put over this one's in a mount namespace."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        raise LeftOut("this host gives no mount namespace")
    with Deployment() as service:
        swaps = service.folder / "swaps"
        swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n/dev/vdb partition 1048572 0 -2\n")
        if len(pathlib.Path("/proc/swaps").read_text().splitlines()) < 2:
            service.start()
            service.stop()
            expect("the host has swap" not in service.log.read_text(), "it warns on a host without swap")
        inside = f'mount --bind {swaps} /proc/swaps && exec "$@"'
        service.start(["unshare", "--mount", "sh", "-c", inside, "sh"])
        recovered = service.recovers()
        warnings = [json.loads(line) for line in service.log.read_text().splitlines() if "the host has swap" in line]
        expect(len(warnings) == 1 and warnings[0]["level"] == "WARN", f"{warnings}")
        return f"“{warnings[0]['message']}”; none without", recovered


class Salesforce(http.server.BaseHTTPRequestHandler):
    """Gives a token to everybody, by a clock that is `ahead` seconds ahead."""

    ahead, assertions, given = 0, [], 0
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        Salesforce.assertions.append(re.search(r"assertion=([^&]+)", form)[1])
        Salesforce.given += 1
        body = {"access_token": f"00D!{self.given}", "token_type": "Bearer", "instance_url": "https://acme.my.salesforce.com"}
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + self.ahead, usegmt=True)

    def log_message(self, *_):
        pass


def another_clock():
    """Ten minutes off in either direction: shown, and what is minted goes by the host's clock."""
    port = free_port()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Salesforce)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket), Deployment(more=salesforce_at(port)) as service:
        service.make_key("crm", "Crm1")
        service.start()
        connection, shown, rejected = Connection(service.port), [], {}
        for ahead in (0, 600, -600, 0):
            Salesforce.ahead = ahead
            status, _, body = connection.ask(post("/oauth-access-token", json.dumps(rejected).encode(), service.api_key))
            expect(status == 200, f"{ahead:+d} s: {status} {body!r}")
            answer = json.loads(body)
            rejected = {"rejected_token": answer["access_token"]}
            skew = service.metrics()["tokenmint_salesforce_clock_skew_seconds"]
            expect(abs(skew + ahead) < 3, f"{ahead:+d} s: the gauge shows {skew:+.0f}")
            shown.append(f"{skew:+.0f} s")
            status, _, body = connection.ask(service.mint())
            token = json.loads(body)["token"]
            for said in (claims(token), claims(Salesforce.assertions[-1])):
                expect(abs(said["iat"] - time.time()) < 3, f"{ahead:+d} s: iat is {said['iat'] - time.time():+.0f} s off")
            expect(abs(answer["obtained_at"] - time.time()) < 3, f"{ahead:+d} s: obtained_at {answer['obtained_at']}")
        server.shutdown()
        return f"skew shown as {', '.join(shown)}; `iat` and `obtained_at` by the host's clock", service.recovers()
