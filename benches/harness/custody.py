"""Keys that a store seals or signs with: the cost of a token with a sealed key, and the rate of remote signatures through `bao` over the rate
that `bao` gives a bare client."""

import base64
import hashlib
import json
import shutil
import subprocess
import time
import urllib.request

from servers import KID, Server, Tokenmint, http_request, write_requests

CONNECTIONS = 16
TOKEN = "root"
UNLIMITED = 100_000
"""`max_signatures_per_second`: the store is to be the limit."""


class Bao(Server):
    """`bao server -dev`, with a key that seals and one that signs."""

    live = "/v1/sys/health"

    def __init__(self, binary, folder):
        super().__init__("bao", folder, [])
        self._command = [
            binary, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}",
            f"-dev-listen-address=127.0.0.1:{self.port}",
        ]

    def __enter__(self):
        super().__enter__()
        self.write("sys/mounts/transit", type="transit")
        self.write("transit/keys/seal", type="aes256-gcm96")
        self.write("transit/keys/web", type="rsa-2048")
        return self

    def write(self, path, **members):
        body = json.dumps(members).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/{path}", body, {"X-Vault-Token": TOKEN})
        urllib.request.urlopen(asked, timeout=10).close()

    def sign_requests(self, path):
        """The request that tokenmint sends, for the load generator."""
        digest = base64.b64encode(hashlib.sha256(b"a token").digest()).decode()
        body = json.dumps({
            "input": digest, "prehashed": True, "key_version": 1, "signature_algorithm": "pkcs1v15", "marshaling_algorithm": "jws",
        })
        plain = http_request("POST", "/v1/transit/sign/web/sha2-256", body)
        return write_requests(path, [plain.replace("\r\n", f"\r\nX-Vault-Token: {TOKEN}\r\n", 1)])


class WithStore(Tokenmint):
    """The service with a key directory and a store. `keys` says what the store does with the keys."""

    def __init__(self, name, binary, folder, key_file, bao, keys):
        super().__init__(name, binary, folder, key_file, more="\n".join([
            "[stores.bao]", 'kind = "vault"', f'address = "http://127.0.0.1:{bao.port}"', 'token_file = "token"',
            f"max_signatures_per_second = {UNLIMITED}", f"max_concurrent_signatures = {CONNECTIONS}",
        ]))
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(TOKEN)
        text = self.config.read_text().replace(f'kid = "{KID}"\nkey_file = "{key_file}"', f'directory = "keys"\n{keys}')
        self.config.write_text(text)
        self.keys = folder / "keys"
        shutil.rmtree(self.keys, ignore_errors=True)
        self.keys.mkdir(mode=0o700)
        self.binary = binary

    def run(self, *arguments):
        command = [self.binary, *arguments, "--config", self.config]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != 0:
            raise SystemExit(f"{command}: {ran.stdout}{ran.stderr}")


def measure(bench, say):
    """Returns [CPU of a token with a sealed key over one in a file], and [(bare, remote, probes)] of the rounds."""
    bao = bench.peers.parent / "venv/bin/bao"
    if not bao.exists():
        raise SystemExit(f"{bao} is missing: tests/interop/setup installs it")
    folder = bench.folder / "custody"
    folder.mkdir()
    over_file, remote_rounds = [], []
    with Bao(bao, folder) as store:
        sealed = WithStore(
            "sealed key", bench.binary, folder / "sealed", bench.key, store, 'sealed_by = "bao"\nseal_key = "seal"'
        )
        shutil.copy2(bench.key, sealed.keys / f"{KID}.key")
        sealed.run("keys", "seal", KID)
        remote = WithStore("remote key", bench.binary, folder / "remote", bench.key, store, 'signed_by = "bao"')
        remote.run("keys", "new", KID, "--remote-key", "web:1")
        signs = store.sign_requests(folder / "sign.requests")
        with bench.tokenmint("key in a file") as plain, sealed, remote:
            pairs = 3 * bench.rounds
            for turn in range(pairs):
                say(f"round {turn + 1} of {pairs}: a sealed key")
                alone = bench.tools.drive(plain, bench.identity, CONNECTIONS, bench.seconds)
                driven = bench.tools.drive(sealed, bench.identity, CONNECTIONS, bench.seconds)
                over_file.append(driven.cpu_us / alone.cpu_us)
            for turn in range(bench.rounds):
                say(f"round {turn + 1} of {bench.rounds}: remote signatures")
                bare = bench.tools.drive(store, signs, CONNECTIONS, 2 * bench.seconds)
                through = bench.tools.drive(remote, bench.identity, CONNECTIONS, 2 * bench.seconds)
                probes = {}
                def beside():
                    time.sleep(0.1)
                    probes.update(bench.tools.probe(remote, bench.seconds, {"JWKS": ("kept", bench.jwks)}))
                bench.tools.drive(remote, bench.identity, CONNECTIONS, 4 * bench.seconds, beside=beside)
                remote_rounds.append((bare, through, probes["JWKS"]))
    return over_file, remote_rounds


def section(found, targets, table, spread):
    over_file, rounds = found
    targets.below("CPU of a token with a sealed key over one in a file, 16 connections", over_file, 1.01, "{:.3f}")
    share = [through.per_second / bare.per_second for bare, through, _ in rounds]
    targets.above("tokens/s with a remote key over what bao gives a bare client, 16 connections", share, 0.9, "{:.3f}")
    jwks = [probe["p99_ms"] for _, _, probe in rounds]
    targets.below("JWKS, p99 beside 16 connections that mint with a remote key", jwks, 5, "{:.1f}", " ms")
    rows = [
        [name, *(spread([getattr(one, of) for one in driven], form) for of, form in (("per_second", "{:,.0f}"), ("p50_ms", "{:.1f}"), ("p99_ms", "{:.1f}")))]
        for name, driven in (
            ("`bao`, a bare client", [bare for bare, _, _ in rounds]), ("tokenmint with a remote key", [through for _, through, _ in rounds]),
        )
    ]
    return f"### Keys of a store, {CONNECTIONS} connections\n\n{table(['who', 'signatures/s', 'p50 ms', 'p99 ms'], rows)}"
