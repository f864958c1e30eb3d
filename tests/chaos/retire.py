"""Case 29: a key that others may have is taken away, in each of its states, whatever else is wrong with the files.

The service runs as a user of its own and the commands as root, as docs/operate/systemd.md installs them.
"""

import concurrent.futures
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone

from deployment import BINARY, FULL, Connection, Deployment, environment, expect, get, ms, salesforce_at

PROMISED = 5.0
USER = 61234
"""Of the service: a user without a name, in a group of the same number."""
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
KEYS = {"gone": "Web0", "retiring": "Web1", "signing": "Web2", "pending": "Web3"}
"""The key in each state."""
AT_ONCE = 6
"""So many services run at the same time."""
SETTLED = 'state_directory = "state"\n'

_one = threading.Lock()
"""Ports are given by a counter."""


class Owned(Deployment):
    """Keys of all four states, root's and readable by the service's group, and another keyset with a key of its own."""

    def __init__(self, made, binary, has_gone_files):
        self.made, self.binary = made, binary
        with _one:
            super().__init__(more=salesforce_at(9))
        self.make_key("crm", "Crm1")
        for kid in ("Web0", "Web2", "Web3"):
            if kid != "Web0" or has_gone_files:
                self.make_key("web", kid)
        dates = [("Web0", -timedelta(days=400)), ("Web1", -timedelta(days=30)), ("Web2", -timedelta(minutes=1)), ("Web3", timedelta(days=2))]
        self.web = self.folder / "keys/web"
        self.schedule = self.web / "keyset.toml"
        self.schedule.write_text("".join(entry(*date) for date in dates))
        os.chmod(self.folder, 0o755)
        for path in [self.folder / "tokenmint.toml", *self.folder.glob("keys/*/*")]:
            give(path, 0o440)
        for path in [self.folder / "keys", *self.folder.glob("keys/*")]:
            give(path, 0o750)
        (self.folder / "state").mkdir(mode=0o700)
        os.chown(self.folder / "state", USER, USER)

    def make_key(self, keyset, kid, bits=2048):
        (self.folder / "keys" / keyset).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.made / kid / f"{kid}.key", self.folder / "keys" / keyset)

    def edit(self, name, old, new):
        path = self.folder / name
        path.write_text(path.read_text().replace(old, new))

    def start(self):
        """As its own user; an absolute path, since that user may not look into the folder of the build."""
        wrapped = [*AS_USER, "sh", "-c", f'shift; exec {self.binary} "$@"', "sh"]
        return super().start(wrapped)

    def uses(self, kid):
        """Whether it signs with that key, or publishes it."""
        connection = Connection(self.port)
        status, _, body = connection.ask(get("/keysets/web/jwks.json"))
        expect(status == 200, f"the JWKS: {status}")
        published = any(key["kid"] == kid for key in json.loads(body)["keys"])
        status, _, body = connection.ask(self.mint(f"user-{time.monotonic_ns()}"))
        expect(status == 200, f"no token: {status} {body!r}")
        connection.close()
        return published or json.loads(body)["kid"] == kid

    def stays_without(self, kid, seconds, when):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            expect(not self.uses(kid), f"it came back {when}")
            time.sleep(0.1)


def give(path, mode):
    os.chown(path, 0, USER)
    os.chmod(path, mode)


def entry(kid, after):
    return f"[[key]]\nkid = \"{kid}\"\nsign_from = {(datetime.now(timezone.utc) + after).strftime('%Y-%m-%dT%H:%M:%SZ')}\n"


def a_limit(service, _):
    service.edit("tokenmint.toml", SETTLED, SETTLED + "limits.connections = 77\n")


def a_cache(service, _):
    path = service.folder / "tokenmint.toml"
    path.write_text(f'{path.read_text()}[cache.redis]\nurl = "redis://127.0.0.1:1"\nkey = "{"0123456789abcdef" * 4}"\n')


def a_new_key(service, _):
    service.make_key("crm", "Crm2")
    give(service.folder / "keys/crm/Crm2.key", 0o440)
    (service.folder / "keys/crm/keyset.toml").write_text(entry("Crm1", -timedelta(days=9)) + entry("Crm2", -timedelta(seconds=9)))
    give(service.folder / "keys/crm/keyset.toml", 0o440)


def an_open_key(service, leaked):
    (service.web / ("Web1.key" if leaked != "Web1" else "Web2.key")).chmod(0o644)


def no_toml(service, _):
    path = service.folder / "tokenmint.toml"
    path.write_text(path.read_text() + "[[[\n")


def another_keyset(service, _):
    (service.folder / "keys/crm/Crm1.key").write_text("no key\n")


REFUSED = {
    "a limit that waits for a restart": a_limit,
    "a cache that waits for a restart": a_cache,
    "a new key that would sign at once": a_new_key,
    "a key of mode 0644": an_open_key,
    "no TOML": no_toml,
    "another keyset's key is broken": another_keyset,
}


def retired(made, binary, state, way, has_gone_files):
    """Seconds from the command's start until the key was out of signing and of the JWKS."""
    leaked = KEYS[state]
    with Owned(made, binary, has_gone_files) as service:
        service.start()
        expect(service.uses(leaked) == (state != "gone"), "it isn't in that state")
        if way in REFUSED:
            before = {path: (path.read_bytes(), path.stat().st_mode) for path in service.folder.glob("**/*.[kt][eo][ym]*") if path.is_file()}
            REFUSED[way](service, leaked)
            until(lambda: service.metrics()["tokenmint_config_last_reload_successful"] == 0, "it doesn't refuse these files")
        if way == "restart":
            service.stop()
        begin = time.monotonic()
        command = [BINARY, "keys", "retire", leaked, "--now", "--json", "--directory", "keys/web"]
        command = subprocess.Popen(command, cwd=service.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if way == "restart":
            command.wait(timeout=20)
            service.start()
        while service.uses(leaked):
            expect(time.monotonic() - begin < 2 * PROMISED, f"still used after {2 * PROMISED} s")
            time.sleep(0.02)
        took = time.monotonic() - begin
        _, said = command.communicate(timeout=20)
        expect(command.returncode == 0, f"the command ended with {command.returncode}: {said}")
        expect(took <= PROMISED, f"gone after {took:.1f} s")
        found = service.schedule.stat()
        expect((found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, USER, 0o440), f"keyset.toml is now {found}")
        service.process.send_signal(signal.SIGHUP)
        service.stays_without(leaked, 1, "with a reload")
        if way in REFUSED:
            for path, (content, mode) in before.items():
                if path != service.schedule:
                    path.write_bytes(content)
                    path.chmod(mode & 0o777)
            if way == "a new key that would sign at once":
                for name in ("Crm2.key", "keyset.toml"):
                    (service.folder / "keys/crm" / name).unlink()
            until(lambda: service.metrics()["tokenmint_config_last_reload_successful"] == 1, "the fixed files are not applied")
            service.stays_without(leaked, 0.3, "once the files were fixed")
        service.stop()
        service.start()
        service.stays_without(leaked, 0.3, "with a restart")
        expect("Permission denied" not in service.log.read_text(), f"the service can't open a file: {service.log.read_text()[-2000:]}")
        return took


class Hanging:
    """A FUSE mount at `path` that never answers, until it is left."""

    def __init__(self, path):
        self.path = str(path).encode()

    def __enter__(self):
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"hangs", self.path, b"fuse", 0, options):
            os.close(self.device)
            raise OSError(ctypes.get_errno(), "mount")
        return self

    def __exit__(self, *_):
        LIBC.umount2(self.path, 2)
        os.close(self.device)


LIBC = ctypes.CDLL(None, use_errno=True)


def beside_a_mount_that_hangs():
    """Another keyset's folder lies on a mount that hangs: by the configuration, and by the folder's own path."""
    worst = 0.0
    for more in ([], ["--directory", "keys/web"]):
        with tempfile.TemporaryDirectory(prefix="tokenmint-chaos-keys-") as made, owned(pathlib.Path(made)) as service:
            service.start()
            try:
                hanging = Hanging(service.folder / "keys/crm").__enter__()
            except OSError as error:
                return f"left out: this host gives no FUSE ({error})", None
            try:
                begin = time.monotonic()
                said = service.folder / "said"
                with said.open("w") as out:
                    command = [BINARY, "keys", "retire", KEYS["signing"], "--now", *more]
                    running = subprocess.Popen(command, cwd=service.folder, env=environment(), stdout=out, stderr=out)
                while service.uses(KEYS["signing"]):
                    expect(time.monotonic() - begin < 3 * PROMISED, f"still used after {3 * PROMISED} s: {said.read_text()}")
                    time.sleep(0.02)
                worst = max(worst, time.monotonic() - begin)
                check = subprocess.Popen([BINARY, "check"], cwd=service.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                line = check.stderr.readline()
                expect("the files are not read after" in line and "does a mount" in line, f"check says {line!r}")
                until(lambda: "has dropped it" in said.read_text(), "the command says nothing of it")
                until(lambda: "keysets.crm can't be searched for the same key" in said.read_text(), lambda: f"the command says nothing of the mount: {said.read_text()}")
            finally:
                hanging.__exit__()
            expect("can't be read" not in said.read_text(), f"root can't tell the service's own keys: {said.read_text()}")
            check.communicate(timeout=20)
            # A thread waited for the mount, and the process for the thread.
            expect(running.wait(timeout=20) == 1, "it ended with 0 though one folder was never read")
    return f"another folder hangs: gone {worst:.1f} s after the command's start, which waits 3 s for each file (asserted: 15 s)", worst


def with_its_copies():
    """The same key signs for another keyset under another id; root, who isn't in the service's group, retires both."""
    with tempfile.TemporaryDirectory(prefix="tokenmint-chaos-keys-") as made, owned(pathlib.Path(made)) as service:
        shutil.copy(service.web / "Web2.key", service.folder / "keys/crm/Crm1.key")
        give(service.folder / "keys/crm/Crm1.key", 0o440)
        service.start()
        begin = time.monotonic()
        ran = subprocess.run([BINARY, "keys", "retire", "Web2", "--now"], cwd=service.folder, env=environment(), capture_output=True, text=True)
        took = time.monotonic() - begin
        expect(ran.returncode == 0, f"it ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
        expect("Crm1 in " in ran.stdout and "is the same key, and is retired too" in ran.stdout, ran.stdout)
        published = service.metrics()
        expect(not any('kid="Crm1"' in line or 'kid="Web2"' in line for line in published), "one of them is still there")
        service.stop()
        service.start()
        expect(not service.uses("Web2"), "it came back with a restart")
    return f"both are gone when the command ends, after {took:.1f} s, and after a restart", took


def owned(folder):
    folder.chmod(0o755)
    binary = folder / "tokenmint"
    shutil.copy(BINARY, binary)
    binary.chmod(0o755)
    for kid in [*KEYS.values(), "Crm1"]:
        subprocess.run([BINARY, "keys", "new", kid, "--directory", folder / kid], check=True, capture_output=True, env=environment())
    return Owned(folder, binary, True)


def until(true, otherwise):
    end = time.monotonic() + 10
    while not true():
        expect(time.monotonic() < end, otherwise() if callable(otherwise) else otherwise)
        time.sleep(0.05)


def in_each_state():
    """Each state of the key, through each way that files reach a service, the files of a key that is gone there or not."""
    expect(os.geteuid() == 0, "this case needs root: the commands run as root beside a service of another user")
    ways = ["reload", *REFUSED, "restart"]
    stories = [(state, way) for way in ways for state in KEYS]
    stories = [(*story, gone) for n, story in enumerate(stories) for gone in ((True, False) if FULL else ((n + n // 4) % 2 == 0,))]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tokenmint-chaos-keys-"))
    folder.chmod(0o755)
    try:
        binary = folder / "tokenmint"
        shutil.copy(BINARY, binary)
        binary.chmod(0o755)
        for kid in [*KEYS.values(), "Crm1", "Crm2"]:
            subprocess.run([BINARY, "keys", "new", kid, "--directory", folder / kid], check=True, capture_output=True, env=environment())

        def told(story):
            try:
                return retired(folder, binary, *story)
            except (AssertionError, OSError, EOFError, subprocess.TimeoutExpired) as error:
                return f"{', '.join(map(str, story))}: {error}"

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            seen = list(threads.map(told, stories))
    finally:
        shutil.rmtree(folder)
    failed = [fault for fault in seen if isinstance(fault, str)]
    expect(not failed, f"{len(failed)} of {len(stories)} failed: {'; '.join(failed)}")
    for story, took in zip(stories, seen):
        print(f"       {story[0]:9} {story[1]}, files of a gone key {'there' if story[2] else 'removed'}: {ms(took)}")
    return f"{len(seen)} retirements as root, in {len(KEYS)} states and {len(ways)} ways: gone after {max(seen):.1f} s at most", max(seen)
