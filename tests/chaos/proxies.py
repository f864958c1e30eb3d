"""Cases 93, 94 and 107: two replicas behind haproxy, of which one after the other goes; one behind nginx, with errors
among the requests."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

from deployment import REPO, TOOLS, Connection, Deployment, amount, expect, free_port, get, ms, patient, percentile
from load import Load, minting

RATE = 500
HAPROXY_CFG = REPO / "deploy/haproxy/haproxy.cfg"


class Proxy:
    """haproxy or nginx on a port of its own."""

    def __init__(self, command, folder, port, environment=None):
        self.folder, self.port, self.log = folder, port, folder / "proxy.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=os.environ | (environment or {}), stdout=log, stderr=log)

    def wait(self, path="/livez"):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if Connection(self.port, timeout=2).ask(get(path))[0] == 200:
                    return self
            except (OSError, EOFError):
                pass
            expect(self.process.poll() is None, f"the proxy did not start: {self.log.read_text()[-1000:]}")
            time.sleep(0.05)
        raise AssertionError(f"the proxy does not answer: {self.log.read_text()[-1000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=10)


def replicas():
    """Two of the same files."""
    one, other = Deployment(), Deployment()
    shutil.rmtree(other.folder / "keys")
    shutil.copytree(one.folder / "keys", other.folder / "keys")
    for key in other.folder.glob("keys/*/*.key"):
        key.chmod(0o600)
    text = (one.folder / "tokenmint.toml").read_text()
    text = text.replace(str(one.port), str(other.port)).replace(str(one.ops), str(other.ops))
    (other.folder / "tokenmint.toml").write_text(text)
    other.api_key = one.api_key
    return one, other


def haproxy(folder, pair):
    port = free_port()
    cfg = HAPROXY_CFG.read_text()
    for written, here in {
        "*:8080": f"127.0.0.1:{port}",
        "10.0.0.1:8080 check port 9090": f"127.0.0.1:{pair[0].port} check port {pair[0].ops}",
        "10.0.0.2:8080 check port 9090": f"127.0.0.1:{pair[1].port} check port {pair[1].ops}",
    }.items():
        expect(cfg.count(written) == 1, f"{HAPROXY_CFG} has no {written}")
        cfg = cfg.replace(written, here)
    (folder / "haproxy.cfg").write_text(cfg)
    return Proxy([TOOLS / "chaos/bin/haproxy", "-f", "haproxy.cfg", "-db"], folder, port)


def rolling_restart():
    """Each replica is stopped and started, in turn, and is ready again before the next goes."""
    restarts = amount(4, 50)
    one, other = replicas()
    with one, other:
        one.start(), other.start()
        with haproxy(one.folder, (one, other)).wait("/.well-known/jwks.json") as proxy:
            with Load(proxy.port, minting(one.api_key), rate=RATE).start() as load:
                begin, stops = time.monotonic(), []
                for n in range(restarts):
                    replica = (one, other)[n % 2]
                    time.sleep(1)
                    stopped = time.monotonic()
                    code = replica.stop()
                    stops.append(time.monotonic() - stopped)
                    expect(code == 0, f"exit code {code}")
                    replica.start()
                    # haproxy takes it back after two good checks.
                    time.sleep(1)
                time.sleep(max(0, 20 - (time.monotonic() - begin)))
                seen = load.stop()
            recovered = one.recovers()
    served = seen.statuses[200]
    expect(not seen.lost, f"{seen.lost} of {seen.asked} requests were lost")
    expect(set(seen.statuses) == {200}, f"{dict(seen.statuses)} {seen.first_bodies}")
    expect(not seen.crossed, f"{seen.crossed} crossed answers")
    pace = served / seen.seconds
    return (
        f"{restarts} restarts, {served} requests at {pace:.0f}/s: 0 lost, 0 5xx, p99 {ms(percentile(seen.took, 0.99))}; "
        f"a stop takes {max(stops):.1f} s at most",
        recovered,
    )


def killed():
    """kill -9 of one of two, again and again."""
    kills = amount(5, 60)
    one, other = replicas()
    with one, other:
        one.start(), other.start()
        with haproxy(one.folder, (one, other)).wait("/.well-known/jwks.json") as proxy:
            with Load(proxy.port, minting(one.api_key), rate=RATE).start() as load:
                in_flight, ready = 0, []
                for _ in range(kills):
                    time.sleep(1.5)
                    one.process.kill()
                    in_flight += load.outstanding.value
                    one.process.wait()
                    ready.append(one.start())
                time.sleep(1)
                seen = load.stop()
            recovered = one.recovers()
    failed = seen.lost + sum(count for status, count in seen.statuses.items() if status != 200)
    expect(failed <= in_flight, f"{failed} failed, {in_flight} were in flight at the kills: {dict(seen.statuses)} {seen.lost} lost")
    bound = patient(amount(1, 0.5))
    expect(max(ready) <= bound, f"ready again after {max(ready):.2f} s")
    expect(not seen.crossed, f"{seen.crossed} crossed answers")
    return (
        f"{kills} kills, {seen.asked} requests: {failed} failed, {in_flight} in flight at the kills; ready again after {ms(max(ready))} "
        f"at most (asserted: {ms(bound)}; by FULL=1, of a release build, 500 ms)",
        recovered,
    )


NGINX_CONF = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log proxy.log warn;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    client_max_body_size 0;
    upstream tokenmint {
        server 127.0.0.1:%d;
        # Below the five seconds after which tokenmint closes an idle connection.
        keepalive 8;
        keepalive_timeout 4s;
    }
    server {
        listen 127.0.0.1:%d;
        keepalive_requests 1000000;
        location / {
            proxy_pass http://tokenmint;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # The body goes on as it comes: that is where an early answer leaves bytes behind.
            proxy_request_buffering off;
        }
    }
}
"""


def behind_nginx():
    """Good requests and every kind of error over the same few connections: each answer belongs to its question."""
    count = amount(20_000, 1_000_000)
    with Deployment("limits.remint_burst = 1000000\nlimits.remints_per_minute = 1000000") as service:
        service.start()
        key = f"Authorization: Bearer {service.api_key}\r\n"
        json = "Content-Type: application/json\r\n"
        long = b'{"sub": "' + b"x" * 30_000 + b'"}'

        # Whose body is neither wanted nor there in full is answered and closed. nginx, still sending, may find the
        # connection reset before it has read the answer: its 502.
        kinds = [
            lambda n: ("POST /identity-token", key + json, f'{{"sub": "user-{n}"}}'.encode(), (200,)),
            lambda n: ("GET /.well-known/jwks.json", "", None, (200,)),
            lambda n: ("POST /identity-token", key + json, b'{"sub": ""}', (400,)),
            lambda n: ("POST /identity-token", json, f'{{"sub": "user-{n}"}}'.encode(), (401,)),
            lambda n: ("POST /identity-token", json, long, (401, 502)),
            lambda n: ("POST /identity-token", key + json, b'{"profile": "identity.no", "sub": "a"}', (403,)),
            lambda n: ("POST /nowhere", key + json, long, (404, 502)),
            lambda n: ("DELETE /identity-token", key, None, (405,)),
            lambda n: ("POST /identity-token", key + json, long, (413, 502)),
            lambda n: ("POST /identity-token", key + "Content-Type: text/plain\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", (415,)),
        ]
        port = free_port()
        (service.folder / "nginx.conf").write_text(NGINX_CONF % (service.port, port))
        (service.folder / "temp").mkdir()
        # Its workers are another user's when root starts it.
        service.folder.chmod(0o755)
        (service.folder / "temp").chmod(0o777)
        command = [TOOLS / "chaos/bin/nginx", "-p", service.folder, "-c", service.folder / "nginx.conf", "-e", "proxy.log"]
        with Proxy(command, service.folder, port).wait("/.well-known/jwks.json"):
            seen = Load(port, lambda n: kinds[n * 7 % len(kinds)](n), connections=32, count=count, again=True).start().wait()
            recovered = service.recovers()
        expect(not seen.crossed, f"{seen.crossed} answers went to another question")
        expect(not seen.unexpected, f"other answers than the question's own: {seen.unexpected[:3]}")
        expect(not seen.lost, f"{seen.lost} of {count} went without an answer")
        expect(service.panics() == 0, "it panicked")
        by_status = " ".join(f"{status}:{seen.statuses[status]}" for status in sorted(seen.statuses))
        return f"{count} requests over 8 kept connections: 0 crossed; {by_status}", recovered
