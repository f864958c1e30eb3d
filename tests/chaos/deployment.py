"""A tokenmint to harm: its folder, its process, and what the host knows of that process."""

import hashlib
import json
import os
import pathlib
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(REPO / "tests"))

from ports import free_port  # noqa: E402

BINARY = pathlib.Path(os.environ.get("TOKENMINT_BIN", REPO / "target/debug/tokenmint")).resolve()
TOOLS = pathlib.Path(os.environ.get("TOKENMINT_TOOLS") or REPO / "target/tools").resolve()
FULL = os.environ.get("FULL") == "1"
SEED = int(os.environ.get("CHAOS_SEED", "1"))
AUDIENCE = "https://acme.my.salesforce-scrt.com"


def amount(short, full):
    return full if FULL else short


class Fault(AssertionError):
    """What was seen in place of what is right."""


def expect(right, otherwise):
    if not right:
        raise Fault(otherwise)


IS_BUSY = os.getloadavg()[0] > 2 * os.cpu_count()
"""Others keep this machine busy, and everything takes its time."""


def patient(seconds):
    """A bound on a time, doubled on a busy machine."""
    return seconds * (2 if IS_BUSY else 1)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def ms(seconds):
    return f"{seconds * 1000:.1f} ms"


class Connection:
    """One kept connection; raw, since the cases are about bytes."""

    def __init__(self, port, timeout=10):
        self.port, self.timeout, self.socket = port, timeout, None

    def ask(self, request):
        """Status, lower-case head and body; OSError or EOFError where none comes."""
        fresh = self.socket is None
        try:
            if fresh:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout)
            self.socket.sendall(request)
            return self.answer()
        except (OSError, EOFError):
            self.close()
            if fresh:
                raise
            return self.ask(request)

    def answer(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.received()
        head, _, body = data.partition(b"\r\n\r\n")
        head = head.lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length: " in head else 0
        while len(body) < length:
            body += self.received()
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), head, body

    def received(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        return data

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None


def get(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: chaos\r\n{more}\r\n".encode()


def post(path, body, api_key, more=""):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: chaos\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


class Deployment:
    """A folder with a configuration and keys, and the service that runs from it."""

    def __init__(self, server="", more="", bits=2048, claims="", subjects=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tokenmint-chaos-"))
        self.port, self.ops = free_port(), free_port()
        self.api_key = "tm_" + secrets.token_urlsafe(32)
        self.process, self.log = None, self.folder / "log"
        (self.folder / "tokenmint.toml").write_text(
            f"""
[server]
listen = "127.0.0.1:{self.port}"
state_directory = "state"
{server}
[server.ops]
listen = "127.0.0.1:{self.ops}"
[keysets.web]
directory = "keys/web"
[identity.web]
keyset = "web"
issuer = "https://issuer.example/"
audience = "{AUDIENCE}"
{claims}
[callers.chaos]
api_key_sha256 = ["{hashlib.sha256(self.api_key.encode()).hexdigest()}"]
allow = ["identity.web"{', "oauth.crm", "intercom.fin"' if "[oauth.crm]" in more else ""}]
{more}
"""
        )
        self.make_key("web", "Web1", bits)

    def make_key(self, keyset, kid, bits=2048):
        self.run("keys", "new", kid, "--directory", f"keys/{keyset}", "--bits", str(bits))

    def run(self, *arguments, check=True):
        ran = subprocess.run([BINARY, *arguments], cwd=self.folder, env=environment(), capture_output=True, text=True)
        expect(ran.returncode == 0 or not check, f"tokenmint {' '.join(arguments)}: {ran.stderr}")
        return ran

    def write_private(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)

    def start(self, wrap=(), more_environment=None, wait=True):
        """Seconds until it was ready."""
        begin = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*wrap, BINARY, "serve", "--config", self.folder / "tokenmint.toml"],
                cwd=self.folder,
                env=environment() | (more_environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while wait and not self.is_ready():
            alive = self.process.poll() is None and time.monotonic() - begin < 20
            expect(alive, f"it did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.005)
        return time.monotonic() - begin

    def is_ready(self):
        try:
            return Connection(self.ops, timeout=2).ask(get("/readyz"))[0] == 200
        except (OSError, EOFError):
            return False

    def mint(self, sub="user"):
        return post("/identity-token", f'{{"sub": "{sub}"}}'.encode(), self.api_key)

    def recovers(self, within=patient(5)):
        """Seconds until a hundred good answers have come in a row."""
        begin, connection, good = time.monotonic(), Connection(self.port, timeout=within), 0
        while good < 100:
            expect(time.monotonic() - begin < within, f"not a hundred good answers within {within} s of the fault's end")
            try:
                status, _, body = connection.ask(self.mint(f"recovery-{good}"))
                good = good + 1 if status == 200 and b'"token"' in body else 0
            except (OSError, EOFError):
                good = 0
                time.sleep(0.01)
        return time.monotonic() - begin

    def metrics(self):
        _, _, body = Connection(self.ops).ask(get("/metrics"))
        samples = (line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def panics(self):
        return int(self.metrics()["tokenmint_panics_total"])

    def memory(self):
        """Resident bytes."""
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu(self):
        """Seconds of processor time since its start."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, how=signal.SIGTERM):
        """Its exit code."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=20)
        return self.process.returncode if self.process else None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stop(signal.SIGKILL)
        if kind is None:
            shutil.rmtree(self.folder)


def salesforce_at(port, oauth="", intercom='secret = "intercom-messenger-api-secret-0123456789"'):
    """The configuration with which a deployment exchanges its assertions there, and Intercom's; with more lines for either."""
    return f"""
[keysets.crm]
directory = "keys/crm"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.chaos"
username = "integration@acme.example"
audience = "https://login.salesforce.com"
token_url = "http://127.0.0.1:{port}/services/oauth2/token"
{oauth}
[intercom.fin]
{intercom}
"""


class Sandbox:
    """tokenmint's own Salesforce, for a deployment whose configuration points at `port`."""

    def __init__(self, deployment, port):
        self.port = port
        command = [BINARY, "sandbox", "--listen", f"127.0.0.1:{port}", "--jwks-base", f"http://127.0.0.1:{deployment.port}"]
        with open(deployment.folder / "sandbox.log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=deployment.folder, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self.is_there():
            expect(time.monotonic() < deadline, "the sandbox did not start")
            time.sleep(0.02)

    def is_there(self):
        try:
            return Connection(self.port).ask(get("/__sandbox/state"))[0] == 200
        except (OSError, EOFError):
            return False

    def set(self, what, body):
        status, _, answer = Connection(self.port).ask(post(f"/__sandbox/{what}", json.dumps(body).encode(), "none"))
        expect(status < 300, f"the sandbox: {status} {answer}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def environment():
    """Ours without TOKENMINT_*: to tokenmint those are configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOKENMINT_")}


def reserve_descriptors(count):
    """Lets this process, and what it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expect(hard >= count or hard == resource.RLIM_INFINITY, f"`ulimit -Hn` is {hard}; this case needs {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
