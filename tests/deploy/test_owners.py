"""docs/operating.md's systemd install and deploy/compose.yaml's, with the owners that they prescribe: root changes keys beside
the service's own user. Each in a mount and network namespace of its own, so that this machine's /etc stays as it is.
"""

import json
import os
import re
import shlex
import subprocess
import time

import pytest
from service import REPO, environment
from test_operating import BLOCKS

PROMISED = 5
STUB = {"systemctl", "docker"}
"""What these pages call, and what isn't there: no systemd runs here, and no Docker."""


class Host:
    """A machine of its own, as far as files and addresses go."""

    def __init__(self, folder, binary):
        self.folder = folder
        folder.chmod(0o755)
        (folder / "deploy").symlink_to(REPO / "deploy")
        (folder / "tokenmint").write_bytes(binary.read_bytes())
        (folder / "tokenmint").chmod(0o755)
        self.log, self.process = folder / "log", None
        own = f"""
            ip link set lo up
            mkdir {folder}/.etc && mount -t tmpfs etc {folder}/.etc && cp -a /etc/. {folder}/.etc && mount --bind {folder}/.etc /etc
            mkdir -p /etc/sysusers.d /etc/systemd/system
            mount -t tmpfs bin /usr/local/bin && mount -t tmpfs lib /var/lib && mount -t tmpfs run /mnt && chmod 755 /mnt
            cp {folder}/tokenmint /usr/local/bin/tokenmint
            echo ready && exec sleep 600"""
        command = ["unshare", "--mount", "--net", "bash", "-euc", own]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        assert self.holder.stdout.readline() == "ready\n"

    def command(self, *words):
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--net", f"--wdns={self.folder}", *words]

    def run(self, *words, more=None):
        words = self.command(*map(str, words))
        return subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment() | (more or {}))

    def play(self, script):
        stubs = "".join(f"{name}() {{ :; }}\n" for name in STUB) + 'sudo() { "$@"; }\n'
        ran = self.run("bash", "-euxo", "pipefail", "-c", stubs + script)
        assert ran.returncode == 0, ran.stderr

    def serve(self, user, more):
        """As the service's user, in its group, and in no other."""
        wrap = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        with self.log.open("a") as log:
            command = self.command(*wrap, "/usr/local/bin/tokenmint", "serve")
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment() | more)
        end = time.monotonic() + 20
        while self.get(self.ops, "/readyz") is None:
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def stop(self):
        if self.process:
            self.process.terminate()
            assert self.process.wait(timeout=20) == 0

    def get(self, port, path):
        ran = self.run("curl", "-sf", f"http://127.0.0.1:{port}{path}")
        return ran.stdout if ran.returncode == 0 else None

    def published(self):
        return [key["kid"] for key in json.loads(self.get(self.public, "/keysets/web/jwks.json"))["keys"]]

    def access(self, folder):
        """Of each file: owner, group and mode."""
        lines = self.run("find", folder, "-type", "f", "-printf", "%f %U %G %m\n").stdout.splitlines()
        return {line.split()[0]: tuple(line.split()[1:]) for line in lines}


@pytest.fixture
def host(tmp_path, binary):
    for folder in tmp_path.parents:
        # pytest's own folders are closed to the service's user.
        if folder.stat().st_uid == os.geteuid() and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o011)
    made = Host(tmp_path, binary)
    yield made
    if made.process:
        made.process.kill()
    made.holder.kill()


def root_changes_keys(host, user, config, keys, more, of_service):
    """`keys rotate`, then `keys retire --now` of the key that signs, then a restart."""
    before = host.access(keys)
    alike = {name.rpartition(".")[2]: access for name, access in before.items()}
    # Where there was none, it is at least of the same owner and group, and the group reads it.
    owner, group, _ = alike["key"]
    alike["toml"] = (owner, group, "444" if alike["key"][2] == "440" else "644")
    host.serve(user, of_service)
    assert host.published() == ["WebAppKey1"]

    def took_over(arguments, kids):
        begin = time.monotonic()
        ran = host.run("/usr/local/bin/tokenmint", *arguments, "--config", config, more=more)
        assert ran.returncode == 0, ran.stdout + ran.stderr + host.log.read_text()
        while host.published() != kids:
            assert time.monotonic() - begin < PROMISED, host.published()
        assert time.monotonic() - begin < PROMISED
        for name, access in host.access(keys).items():
            assert access == alike[name.rpartition(".")[2]], name

    took_over(["keys", "rotate", "--keyset", "web"], ["WebAppKey1", "WebAppKey2"])
    assert {"WebAppKey2.key", "WebAppKey2.crt", "WebAppKey2.jwk", "keyset.toml"} <= set(host.access(keys))
    took_over(["keys", "retire", "WebAppKey1", "--now"], ["WebAppKey2"])
    # No key is left that verifiers know: another is made.
    took_over(["keys", "retire", "WebAppKey2", "--now"], ["WebAppKey3"])
    # As `systemctl reload` asks, as the service's user.
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/local/bin/tokenmint", "check", "--running"]
    asked = host.run(*words, more=of_service)
    assert asked.returncode == 0 and "uses these files" in asked.stdout, asked.stdout + asked.stderr
    host.stop()
    host.serve(user, of_service)
    assert host.published() == ["WebAppKey3"]
    host.stop()
    assert "Permission denied" not in host.log.read_text()


def test_root_changes_keys_beside_systemds_user(host):
    script = next(text for language, text in BLOCKS if language == "console" and "sysusers" in text)
    host.play(f"tokenmint init etc --issuer intercom.com --kid WebAppKey1\n{script}")
    unit = (REPO / "deploy" / "systemd" / "tokenmint.service").read_text()
    settings = re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)
    user = dict(settings)["User"]
    # As systemd gives them: the state directory, and a copy of each credential that the user alone reads.
    host.play(f"install -d -m 700 -o {user} -g {user} /var/lib/tokenmint /mnt/credentials")
    for name, path in [value.split(":") for setting, value in settings if setting == "LoadCredential"]:
        host.play(f"install -m 400 -o {user} -g {user} {path} /mnt/credentials/{name}")
    given = dict(value.split("=", 1) for setting, value in settings if setting == "Environment")
    given = {name: value.replace("%d", "/mnt/credentials").replace("%S", "/var/lib") for name, value in given.items()}
    host.public = host.ops = 8080
    root_changes_keys(host, user, "/etc/tokenmint/tokenmint.toml", "/etc/tokenmint/keys/web", {}, given)


def test_root_changes_keys_beside_composes_user(host):
    text = (REPO / "deploy" / "compose.yaml").read_text()
    comment = text[: text.index("services:")]
    script = "\n".join(line.removeprefix("#   ") for line in comment.splitlines() if line.startswith("#   "))
    host.play(script.replace("--issuer", "--kid WebAppKey1 --issuer"))
    given = dict(re.findall(r"^      (TOKENMINT_\w+): (.+)$", text, re.MULTILINE))
    user = "65532"
    host.play(f"mkdir /etc/tokenmint && mount --bind etc /etc/tokenmint && install -d -m 700 -o {user} /var/lib/tokenmint")
    host.public, host.ops = 8443, 9090
    of_service = given | {"TOKENMINT_CONFIG": "/etc/tokenmint/tokenmint.toml"}
    told = dict([shlex.split(word)[0].split("=", 1) for word in re.findall(r"TOKENMINT_\w+=\S+", comment)])
    root_changes_keys(host, user, "etc/tokenmint.toml", "etc/keys/web", told, of_service)
