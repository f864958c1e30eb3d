"""Starts tokenmint and its peers, and verifies that each mints the same token before it is measured.

Every peer follows its own documentation, with one worker for each core. The environment has its settings: PORT, KEY_FILE,
KID, ISSUER, AUDIENCE, API_KEY_SHA256.
"""

import grp
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from processes import tree

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tests"))
from ports import free_port  # noqa: E402

PEERS = pathlib.Path(__file__).parent.parent / "peers"
CORES = len(os.sched_getaffinity(0))
KID, ISSUER, AUDIENCE, TTL = "WebAppKey1", "intercom.com", "https://acme.my.salesforce-scrt.com", 3600
INTEGRATION_USER = "integration@acme.example"
USERS = 10_000
"""The number of users that send requests in turn: enough to stay below tokenmint's limit for one user."""


def api_key(number):
    return f"tm_bench-{number:05}"


def digest(number):
    return hashlib.sha256(api_key(number).encode()).hexdigest()


def make_key(path, bits):
    key = rsa.generate_private_key(65537, bits)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return key.public_key()


def http_request(method, path, body=None, key=None):
    """A whole HTTP/1.1 request for the load generator."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", body or ""])


def write_requests(path, requests):
    path.write_text("\0".join(requests))
    return path


def identity_requests(path, callers=1, profiles=1):
    """Writes one request for each user, spread over all callers and profiles."""
    def body(user):
        named = {"profile": f"p{user * 7919 % profiles:05}"} if profiles > 1 else {}
        return json.dumps({"sub": f"user-{user:05}", **named})
    ask = lambda user: http_request("POST", "/identity-token", body(user), api_key(user * 7919 % callers))
    return write_requests(path, map(ask, range(USERS)))


class Server:
    """A process tree that serves HTTP on `port`. A context manager."""

    live = "/livez"

    def __init__(self, name, folder, command, environment=None):
        self.name, self.port, self.folder = name, free_port(), folder
        self._command, self._environment = command, environment or {}
        self._child = None

    def __enter__(self):
        self.log = self.folder / f"{self.name.replace(' ', '-').replace(',', '')}.log"
        command = [part.replace("@PORT@", str(self.port)) for part in map(str, self._command)]
        environment = {**os.environ, "PORT": str(self.port), **self._environment}
        with self.log.open("wb") as log:
            self.began = time.monotonic()
            self._child = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                cwd=PEERS, start_new_session=True,
            )
        try:
            self.ready_ms = self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self):
        """Waits for the first response. Returns the milliseconds since the start."""
        while self._child.poll() is None and time.monotonic() < self.began + 90:
            try:
                if self.answers():
                    return (time.monotonic() - self.began) * 1000
            except (ConnectionError, http.client.HTTPException):
                pass
            time.sleep(0.0005)
        raise SystemExit(f"{self.name} does not start\n{self.last_words()}")

    def answers(self):
        return self.ask("GET", self.live)[0] == 200

    def __exit__(self, *_):
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def pids(self):
        return tree(self._child.pid)

    def last_words(self):
        return self.log.read_text(errors="replace")[-2000:]

    def ask(self, method, path, body=None, key=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def verify(self, public_key):
        """Ends the run unless this server mints the expected token, and only for the right API key."""
        def must(condition, what):
            if not condition:
                raise SystemExit(f"{self.name} can't be compared: {what}\n{self.last_words()}")
        body = json.dumps({"sub": "user-00001"})
        for key in (None, "wrong"):
            status, _ = self.ask("POST", "/identity-token", body, key)
            must(status == 401, f"{status} and not 401 for the API key {key}")
        status, content = self.ask("POST", "/identity-token", body, api_key(0))
        must(status == 200, f"{status}: {content}")
        token = json.loads(content)["token"]
        header = jwt.get_unverified_header(token)
        must(header == {"alg": "RS256", "typ": "JWT", "kid": KID}, f"the header is {header}")
        claims = jwt.decode(token, public_key, ["RS256"], audience=AUDIENCE, issuer=ISSUER)
        iat = claims.get("iat", 0)
        expected = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user-00001", "iat": iat, "exp": iat + TTL}
        must(claims == expected and abs(iat - time.time()) < 5, f"the claims are {claims}")


def app_names(apps):
    return [f"crm{number}" if number else "crm" for number in range(apps)]


def tokenmint_config(
    folder, key_file, port, callers=1, profiles=1, keysets=1, salesforce=None, bundle=False, apps=1, library=None, more="",
):
    """Writes a configuration with the given numbers of callers, profiles, keysets and apps.

    All keysets have the same key under different ids, because generating ten thousand keys takes an hour. The service still
    parses and stores each. Every keyset has a profile. All `apps` log in as one user. `more` is additional TOML."""
    names = [f"p{number:05}" for number in range(max(profiles, keysets))]
    lines = ["[server]", f'listen = "127.0.0.1:{port}"', f'state_directory = "{folder}/state"']
    lines += ["[server.signing]", 'batch = "required"' if library else 'batch = "off"']
    lines += [f'library = "{library}"'] if library else []
    for number in range(keysets):
        kid = KID if number == 0 else f"{KID}-{number:05}"
        lines += [f"[keysets.k{number:05}]", f'kid = "{kid}"', f'key_file = "{key_file}"']
    for number, name in enumerate(names):
        lines += [f"[identity.{name}]", f'keyset = "k{number % keysets:05}"']
        lines += [f'issuer = "{ISSUER}"', f'audience = "{AUDIENCE}"', f'ttl = "{TTL}s"']
    allow = [f"identity.{name}" for name in names]
    if salesforce:
        for name in app_names(apps):
            lines += [f"[oauth.{name}]", 'keyset = "k00000"', f'consumer_key = "3MVG9.bench.{name}"']
            lines += [f'username = "{INTEGRATION_USER}"', 'audience = "https://login.salesforce.com"']
            lines.append(f'token_url = "{salesforce}/services/oauth2/token"')
            allow.append(f"oauth.{name}")
    if bundle:
        lines += ["[bundles.all]", *(f'e{name} = "identity.{name}"' for name in names)]
        # One user sends all requests.
        lines += ["[server.limits]", "remints_per_minute = 1000000", "remint_burst = 1000000"]
        allow.append("bundles.all")
    for number in range(callers):
        lines += [f"[callers.c{number:05}]", f'api_key_sha256 = ["{digest(number)}"]', f"allow = {json.dumps(allow)}"]
    path = folder / "tokenmint.toml"
    path.write_text("\n".join([*lines, more, ""]))
    return path


class Tokenmint(Server):
    """The shipped service with authentication, policy, limits, metrics, and the audit log in a file."""

    def __init__(self, name, binary, folder, key_file, environment=None, **size):
        folder.mkdir(exist_ok=True)
        super().__init__(name, folder, [], environment)
        self.config = tokenmint_config(folder, key_file, self.port, **size)
        self._command = [binary, "serve", "--config", self.config]


class Batching(Tokenmint):
    """The service with Intel's library. Ready after the self-test of the key, which its first token starts."""

    def _wait(self):
        ready_ms = super()._wait()
        self.ask("POST", "/identity-token", '{"sub": "user-00001"}', api_key(0))
        while b"\ntokenmint_signing_batch_keys_total 1\n" not in self.ask("GET", "/metrics")[1]:
            if time.monotonic() > self.began + 30:
                raise SystemExit(f"{self.name}: eight at a time don't pay here\n{self.last_words()}")
            time.sleep(0.1)
        return ready_ms


class FirstToken(Tokenmint):
    """The service, ready when it has minted a token."""

    def answers(self):
        return self.ask("POST", "/identity-token", '{"sub": "user-00001"}', api_key(0))[0] == 200


class Sandbox(Server):
    """`tokenmint sandbox`, the fake Salesforce for the first access token."""

    live = "/services/data"

    def __init__(self, binary, folder, port, config, jwks_base):
        super().__init__("sandbox", folder, [])
        self.port = port
        listen = f"127.0.0.1:{port}"
        self._command = [binary, "sandbox", "--config", config, "--listen", listen, "--jwks-base", jwks_base]


class Nginx(Server):
    live = "/jwks.json"

    def __init__(self, name, binary, folder, jwks, more=""):
        folder.mkdir()
        super().__init__(name, folder, [binary, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"])
        (folder / "jwks.json").write_bytes(jwks)
        text = (PEERS / "nginx.conf").read_text()
        user = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
        filled = {"FOLDER": folder, "PORT": self.port, "MORE": more, "CORES": CORES, "USER": user}
        for name, value in filled.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "nginx.conf").write_text(text)


def minting_peers(folder, key_file, tools):
    """The servers that a user might write instead of running tokenmint."""
    settings = {
        "KEY_FILE": str(key_file), "KID": KID, "ISSUER": ISSUER, "AUDIENCE": AUDIENCE,
        "API_KEY_SHA256": digest(0), "NODE_ENV": "production", "RACK_ENV": "production",
    }
    # Node looks for packages beside the file, so the file goes to where they are.
    fastify = tools / "fastify.cjs"
    fastify.write_bytes((PEERS / "fastify.cjs").read_bytes())
    uvicorn = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", "@PORT@", "--workers", CORES]
    puma = ["puma", "--environment", "production", "--workers", CORES, "--threads", "5:5", "--preload"]
    puma += ["--bind", "tcp://127.0.0.1:@PORT@", PEERS / "puma.ru"]
    peer = lambda name, command, **more: Server(name, folder, command, settings | more)
    return [
        peer("Node, fastify + jose", ["node", fastify], SIGN="jose"),
        peer("Node, fastify + jsonwebtoken", ["node", fastify], SIGN="jsonwebtoken"),
        peer("Python, FastAPI + PyJWT", [*uvicorn, "--no-access-log"]),
        peer("Ruby, puma + ruby-jwt", puma, KEEP_KEY="yes"),
        peer("Ruby, key parsed per call", puma),
    ]
