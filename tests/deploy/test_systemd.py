"""deploy/systemd: read by systemd's own tools, which need no running systemd, and held against what tokenmint does."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest
import requests
from service import REPO, environment, free_port
from watched import Deployment

SYSTEMD = REPO / "deploy" / "systemd"


@pytest.fixture
def units(tmp_path, binary):
    """The units, with the program where this machine has it: `verify` looks for it."""
    for unit in SYSTEMD.glob("tokenmint*.s[eo]*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/tokenmint", str(binary)))
    return tmp_path


def run(*command, **options):
    return subprocess.run(command, capture_output=True, timeout=60, text=True, **options)


def settings(unit):
    return re.findall(r"^(\w+)=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)


def test_systemd_finds_no_fault(units):
    files = sorted(path for path in units.iterdir() if path.suffix in {".service", ".socket"})
    assert len(files) == 4
    said = run("systemd-analyze", "verify", *files)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    (units / "tokenmint.socket").write_text("[Socket]\nListenStreams=80\n")
    assert "ListenStreams" in run("systemd-analyze", "verify", *files).stderr, "it would say so"


def test_the_sandbox_leaves_little(units):
    """systemd's own measure, 0 to 10: what is left is the network that it needs."""
    said = run("systemd-analyze", "security", "--offline=true", "--threshold=15", units / "tokenmint.service")
    assert said.returncode == 0, said.stdout


def test_the_user_can_be_made(tmp_path):
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "tokenmint.sysusers")
    assert made.returncode == 0, made.stderr
    user = next(value for name, value in settings("tokenmint.service") if name == "User")
    assert f"{user}:" in (tmp_path / "etc" / "passwd").read_text()
    assert f"{user}:" in (tmp_path / "etc" / "group").read_text()


def test_each_listener_has_a_socket_of_its_name():
    names = {dict(settings(path.name))["FileDescriptorName"] for path in SYSTEMD.glob("*.socket")}
    assert names == {"minting", "public", "ops"}
    assert {dict(settings(path.name))["Service"] for path in SYSTEMD.glob("*.socket")} == {"tokenmint.service"}


def test_the_drop_in_is_a_part_of_a_unit(units):
    """By systemd's own reading: an unknown setting there is only a warning in the journal."""
    folder = units / "tokenmint.service.d"
    folder.mkdir()
    drop_in = (SYSTEMD / "fin-credential.conf").read_text()
    (folder / "fin-credential.conf").write_text(drop_in)
    said = run("systemd-analyze", "verify", units / "tokenmint.service")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    (folder / "fin-credential.conf").write_text(drop_in.replace("LoadCredential", "LoadCredentials"))
    assert "LoadCredentials" in run("systemd-analyze", "verify", units / "tokenmint.service").stderr, "it would say so"


def test_its_environment_is_configuration_that_tokenmint_takes(binary, tmp_path):
    """A variable of a wrong name would end every start with 64."""
    deployment = Deployment(tmp_path, binary)
    deployment.config.write_text(deployment.config.read_text().replace('state_directory = "state"\n', ""))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    loaded = [value.split(":")[0] for name, value in settings("tokenmint.service") if name == "LoadCredential"]
    for name in loaded:
        (credentials / name).write_text("a long random text\n" * 3)
    given = dict(value.split("=", 1) for name, value in settings("tokenmint.service") if name == "Environment")
    assert given.pop("TOKENMINT_CONFIG").startswith("/etc/tokenmint/")
    given = {name: value.replace("%d", str(credentials)).replace("%S", str(tmp_path)) for name, value in given.items()}
    checked = run(binary, "check", "--config", deployment.config, env=environment() | given)
    assert checked.returncode == 0, checked.stderr
    given["TOKENMINT_SERVER__AUDIT_KEY_FILE"] += "x"
    assert run(binary, "check", "--config", deployment.config, env=environment() | given).returncode == 64


def test_it_makes_no_system_call_that_the_unit_forbids(binary, tmp_path):
    """Each would end the service with SIGSYS, perhaps after weeks: start, a token, a reload and the stop, traced."""
    deployment = Deployment(tmp_path, binary)
    # A signature with a long key takes more than a millisecond on every processor, so it runs on a thread of its own.
    key = tmp_path / "keys" / "crm" / "CrmKey1.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "4096"], check=True, capture_output=True)
    key.with_suffix(".crt").unlink()
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-o", trace, binary, "serve", "--config", deployment.config]
    with (tmp_path / "log").open("w") as log:
        traced = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    try:
        patience = time.monotonic() + 40
        while not ready(deployment.url) and traced.poll() is None and time.monotonic() < patience:
            time.sleep(0.2)
        headers = {"Authorization": f"Bearer {deployment.api_key}"}
        body = {"sub": "user-1"}
        assert requests.post(f"{deployment.url}/identity-token", json=body, headers=headers, timeout=10).ok
        # Nobody is there: a connection is tried, and the login is recorded.
        requests.post(f"{deployment.url}/oauth-access-token", json={}, headers=headers, timeout=10)
        serving = int(trace.read_text().split()[0])
        os.kill(serving, signal.SIGHUP)
        patience = time.monotonic() + 40
        while '"reloaded"' not in (tmp_path / "log").read_text() and time.monotonic() < patience:
            time.sleep(0.2)
        assert '"reloaded"' in (tmp_path / "log").read_text()
        os.kill(serving, signal.SIGTERM)
        assert traced.wait(timeout=30) == 0
    finally:
        traced.kill()
    called = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"accept4", "connect", "execve", "setpriority"} <= called

    allowed = syscalls("@default")
    for name, value in settings("tokenmint.service"):
        if name == "SystemCallFilter" and not value.startswith("~"):
            allowed |= set().union(*(syscalls(group) for group in value.split()))
        elif name == "SystemCallFilter":
            allowed -= set().union(*(syscalls(group) for group in value.removeprefix("~").split()))
    assert called - allowed == set()


def ready(url):
    try:
        return requests.get(f"{url}/readyz", timeout=2).ok
    except requests.ConnectionError:
        return False


def syscalls(group):
    """The calls of a group, as this machine's systemd has them; or the call of that name."""
    if not group.startswith("@"):
        return {group}
    lines = run("systemd-analyze", "syscall-filter", group).stdout.splitlines()
    names = [line.strip() for line in lines if line.startswith("    ") and not line.strip().startswith("#")]
    assert names, group
    return set().union(*(syscalls(name) if name.startswith("@") else {name} for name in names))


def test_sockets_of_the_units_names_are_taken_in_place_of_the_configured_addresses(binary, tmp_path):
    """By systemd's own hand: a name that differs between unit and program leaves a listener that nobody answers."""
    deployment = Deployment(tmp_path, binary)
    elsewhere = '[server.public]\nlisten = "127.0.0.1:1"\n[server.ops]\nlisten = "127.0.0.1:2"\n'
    deployment.config.write_text(deployment.config.read_text().replace("[keysets.web]", f"{elsewhere}[keysets.web]"))
    names = ["minting", "public", "ops"]
    addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
    listen = [f"--listen={address}" for address in addresses.values()]
    serve = [binary, "serve", "--config", deployment.config]
    with (tmp_path / "log").open("w") as log:
        command = ["systemd-socket-activate", *listen, f"--fdname={':'.join(names)}", *serve]
        activated = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    try:
        patience = time.monotonic() + 20
        while not listens(addresses["ops"]) and time.monotonic() < patience:
            time.sleep(0.1)
        # The very first connection starts it, and is answered: systemd held it.
        assert requests.get(f"http://{addresses['ops']}/readyz", timeout=20).status_code == 200
        assert requests.get(f"http://{addresses['public']}/keysets/web/jwks.json", timeout=10).status_code == 200
        assert requests.post(f"http://{addresses['minting']}/identity-token", timeout=10).status_code == 401
    finally:
        activated.terminate()
        assert activated.wait(timeout=20) == 0


def listens(address):
    """By the kernel's list: to connect would start it."""
    port = int(address.split(":")[1])
    return f"{port:04X} 00000000:0000 0A" in pathlib.Path("/proc/net/tcp").read_text()
