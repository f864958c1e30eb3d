"""The installs of docs/operate/systemd.md, compose.md and docker.md, with the owners that they prescribe: the service mints both
tokens of Fin, and root changes keys and Intercom's secret beside the service's own user. Each in a mount and network namespace
of its own, so that this machine's /etc stays as it is.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import shlex
import subprocess
import time

import pytest
import yaml
from service import REPO, environment
from test_operating import of

PROMISED = 5
SYSTEMD = REPO / "deploy" / "systemd"
STUBS = """
systemctl() { :; }
journalctl() { :; }
sudo() { if [ "$1" = -u ]; then setpriv --reuid="$2" --regid="$2" --clear-groups -- "${@:3}"; else "$@"; fi; }
docker() {
    [ "$1" = compose ] && shift
    [ "$1" != exec ] || [ "$2" != tokenmint ] || setpriv --reuid=65532 --regid=65532 --clear-groups -- env $IN_CONTAINER "${@:3}"
}
"""
"""What these pages call, and what isn't there: no systemd runs here, and no Docker. `docker exec` is the container's user."""


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

    def play(self, script, more=None):
        ran = self.run("bash", "-euxo", "pipefail", "-c", STUBS + script, more=more)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def mint_both(self, api_key):
        """The tokens of one page load."""
        auth, body = ["-H", f"Authorization: Bearer {api_key}"], ["--json", '{"sub": "user-1"}']
        ran = self.run("curl", "-sf", "http://127.0.0.1:8080/bundle", *auth, *body)
        assert ran.returncode == 0, self.log.read_text()
        return json.loads(ran.stdout)["tokens"]

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


def signed_with(token, secret):
    head, _, signature = token.rpartition(".")
    made = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode() == signature


def root_changes_keys(host, user, config, keys, more, of_service, api_key, secret):
    """Both tokens; another secret of Intercom; `keys rotate`, then `keys retire --now` of the key that signs, then a restart."""
    before = host.access(keys)
    alike = {name.rpartition(".")[2]: access for name, access in before.items()}
    # Where there was none, it is at least of the same owner and group, and the group reads it.
    owner, group, _ = alike["key"]
    alike["toml"] = (owner, group, "444" if alike["key"][2] == "440" else "644")
    host.serve(user, of_service)
    assert host.published() == ["WebAppKey1"]
    tokens = host.mint_both(api_key)
    assert set(tokens) == {"salesforce_identity_token", "intercom_user_jwt"}
    verify = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/local/bin/tokenmint", "verify"]
    for token in tokens.values():
        verified = host.run(*verify, token, more=of_service)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    if secret:
        # Written as root, into the file that is there, with its owner and mode.
        another = "fedcba9876543210" * 4
        owner = host.play(f"stat -c '%u %g %a' {secret}")
        assert owner in {"0 0 600\n", f"{user} {user} 600\n"} or owner.startswith("0 ") and owner.endswith(" 440\n"), owner
        host.play(f"echo {another} > {secret}")
        end = time.monotonic() + PROMISED
        while not signed_with(host.mint_both(api_key)["intercom_user_jwt"], another):
            assert time.monotonic() < end, host.log.read_text()
            time.sleep(0.2)

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


def the_rest_of_a_page(host, page, user, of_service, api_key):
    """Its `console` blocks after the service runs: mint, reload, rotate, upgrade."""
    host.serve(user, of_service)
    given = {"API_KEY": api_key, "IN_CONTAINER": " ".join(f"{name}={value}" for name, value in of_service.items())}
    scripts = of(page, "console")
    first = next(at for at, text in enumerate(scripts) if "/bundle" in text)
    for text in [text for text in scripts[first:] if "fin-credential" not in text]:
        # No nginx is in front.
        text = text.replace("https://tokens.example.com", f"http://127.0.0.1:{host.public}")
        shown = host.play(text, more=given)
        if "jq '.tokens | keys'" in text:
            assert "intercom_user_jwt" in shown and "salesforce_identity_token" in shown
    assert host.published() == ["WebAppKey3", "WebAppKey4"]
    host.stop()


def api_key_of(host, page):
    """Follows the `sh` blocks of a page; the API key that `init` printed there."""
    script = "\n".join(of(page, "sh"))
    return host.play(f"{script}\nset +x\necho api_key=$API_KEY").rpartition("api_key=")[2].strip()


def environment_of(host, user, settings):
    """What systemd gives the unit: the state directory, and a copy of each credential that the user alone reads."""
    host.play(f"install -d -m 700 -o {user} -g {user} /var/lib/tokenmint /mnt/credentials")
    for name, path in [value.split(":") for setting, value in settings if setting == "LoadCredential"]:
        host.play(f"install -m 400 -o {user} -g {user} {path} /mnt/credentials/{name}")
    given = dict(value.split("=", 1) for setting, value in settings if setting == "Environment")
    return {name: value.replace("%d", "/mnt/credentials").replace("%S", "/var/lib") for name, value in given.items()}


def settings_of(*files):
    return [line for file in files for line in re.findall(r"^(\w+)=(.*)$", (SYSTEMD / file).read_text(), re.MULTILINE)]


def console_block(page, word):
    return next(text for text in of(page, "console") if word in text)


@pytest.mark.parametrize("credential", [False, True], ids=["file", "credential"])
def test_root_changes_keys_beside_systemds_user(host, credential):
    api_key = api_key_of(host, "systemd")
    host.play(console_block("systemd", "systemd-sysusers"))
    settings = settings_of("tokenmint.service")
    told, secret = {}, "/etc/tokenmint/intercom.secret"
    if credential:
        host.play(console_block("systemd", "fin-credential.conf"))
        settings += settings_of("fin-credential.conf")
        told, secret = dict([re.search(r"(TOKENMINT_INTERCOM\w+)=([\w/]+)", text_of_page("systemd")).groups()]), None
    user = dict(settings)["User"]
    given = environment_of(host, user, settings)
    host.public = host.ops = 8080
    root_changes_keys(host, user, "/etc/tokenmint/tokenmint.toml", "/etc/tokenmint/keys/web", told, given, api_key, secret)
    if not credential:
        the_rest_of_a_page(host, "systemd", user, given, api_key)
        # The page says who runs which command: root isn't in the keys' group.
        listed = ["/usr/local/bin/tokenmint", "keys", "list", "--config", "/etc/tokenmint/tokenmint.toml"]
        assert host.run(*listed).returncode == 64
        assert host.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *listed).returncode == 0


def text_of_page(page):
    return (REPO / "docs" / "operate" / f"{page}.md").read_text()


def play_container(host, given, user="65532"):
    """The mounts of a container that has etc/ at /etc/tokenmint."""
    host.play(f"mkdir /etc/tokenmint && mount --bind etc /etc/tokenmint && install -d -m 700 -o {user} /var/lib/tokenmint")
    return given | {"TOKENMINT_CONFIG": "/etc/tokenmint/tokenmint.toml"}


def test_root_changes_keys_beside_composes_user(host):
    block = console_block("compose", "tokenmint init")
    text = (REPO / "deploy" / "compose.yaml").read_text()
    comment = text[: text.index("services:")]
    for line in re.findall(r"^#   (.+)$", comment, re.MULTILINE):
        assert line.split("  ")[0] in text_of_page("compose"), line
    # Not in deploy/, which is the repository's.
    shown = host.play(block.replace("cd deploy\n", ""))
    api_key = re.search(r"tm_[\w-]+", shown)[0]
    given = dict(re.findall(r"^      (TOKENMINT_\w+): (.+)$", text, re.MULTILINE))
    host.public, host.ops = 8443, 9090
    of_service = play_container(host, given)
    told = dict([shlex.split(word)[0].split("=", 1) for word in re.findall(r"TOKENMINT_\w+=\S+", comment)])
    root_changes_keys(host, "65532", "etc/tokenmint.toml", "etc/keys/web", told, of_service, api_key, "etc/intercom.secret")
    the_rest_of_a_page(host, "compose", "65532", of_service, api_key)


def test_root_changes_keys_beside_dockers_user(host):
    api_key = api_key_of(host, "docker")
    host.play(console_block("docker", "chown"))
    words = shlex.split(console_block("docker", "docker run -d").split("docker logs")[0])
    options = dict(zip(words, words[1:], strict=False))
    assert "--read-only" in words and options["-v"] == "$PWD/etc:/etc/tokenmint:ro" and options["-p"] == "127.0.0.1:8080:8080"
    given = dict(word.split("=", 1) for word in words if word.startswith("TOKENMINT_"))
    assert options["--tmpfs"].split(":")[0] == os.path.dirname(given["TOKENMINT_SERVER__STATE_DIRECTORY"])
    compose = yaml.safe_load((REPO / "deploy" / "compose.yaml").read_text())["services"]["tokenmint"]
    assert options["--tmpfs"] == compose["tmpfs"][0] and options["--security-opt"] == "no-new-privileges"
    host.public = host.ops = 8080
    of_service = play_container(host, given)
    root_changes_keys(host, "65532", "etc/tokenmint.toml", "etc/keys/web", {}, of_service, api_key, "etc/intercom.secret")
    the_rest_of_a_page(host, "docker", "65532", of_service, api_key)
