"""Cases 86, 88 and 101: the host's clock jumps, the process is stopped for hours, the kernel gives no random bytes."""

import base64
import json
import pathlib
import signal
import socket
import struct
import subprocess
import time

from deployment import BINARY, Connection, Deployment, Sandbox, environment, expect, free_port, post, salesforce_at

HOUR, DAY = 3600, 86400


class FakedClock:
    """The wall clock of a process that starts with `environment`; what timers go by stays as it is."""

    def __init__(self, folder):
        library, self.file = pathlib.Path(folder) / "wall_clock.so", pathlib.Path(folder) / "wall_clock"
        source = pathlib.Path(__file__).with_name("wall_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
        self.file.write_bytes(bytes(8))
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self.file)}

    def set(self, offset):
        self.offset = offset
        with self.file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", offset))

    def now(self):
        return time.time() + self.offset


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def clock_steps():
    """Whatever the clock says, a token says the same, lives for as long as it should, and the service goes on."""
    with Deployment() as service:
        clock = FakedClock(service.folder)
        service.start(more_environment=clock.environment)
        connection, steps = Connection(service.port), [-HOUR, HOUR, DAY, -2 * DAY, 0]
        # 1970, a second before the end of 32 bits, 2100.
        steps += [int(moment - time.time()) for moment in (60, 2**31 - 1, 4_102_444_800)] + [0]
        for n, offset in enumerate(steps):
            clock.set(offset)
            for m in range(20):
                status, _, body = connection.ask(service.mint(f"user-{n}-{m}"))
                expect(status == 200, f"{offset:+d} s: {status} {body[:200]!r}")
                answer = json.loads(body)
                said = claims(answer["token"])
                expect(abs(said["iat"] - clock.now()) < 3, f"{offset:+d} s: iat is {said['iat'] - clock.now():+.0f} s off")
                expect(said["exp"] - said["iat"] == HOUR, f"{offset:+d} s: a life of {said['exp'] - said['iat']} s")
        expect(service.panics() == 0, "it panicked")
        return f"{len(steps)} steps from 1970 to 2100, 20 tokens after each: `iat` is the clock's, the life an hour", service.recovers()


def stopped_for_two_hours():
    """As a suspended machine: the steady clock stands, the wall clock has gone on. No token is served that has expired."""
    port = free_port()
    with Deployment(more=salesforce_at(port)) as service:
        service.make_key("crm", "Crm1")
        clock = FakedClock(service.folder)
        service.start(more_environment=clock.environment)
        with Sandbox(service, port) as sandbox:
            connection = Connection(service.port)

            def exchange():
                status, _, body = connection.ask(post("/oauth-access-token", b"{}", service.api_key))
                expect(status == 200, f"{status} {body!r}")
                return json.loads(body)

            first, kept = exchange(), exchange()
            expect(kept["cached"] and kept["access_token"] == first["access_token"], "the first is kept")
            service.process.send_signal(signal.SIGSTOP)
            clock.set(2 * HOUR)
            sandbox.set("clock-skew", {"seconds": 2 * HOUR})
            service.process.send_signal(signal.SIGCONT)
            connection.close()
            after = exchange()
            expect(not after["cached"] and after["expires_at"] > clock.now(), f"after two hours: {after['expires_at'] - clock.now():+.0f} s left")
            return "the access token that expired meanwhile is exchanged anew", service.recovers()


def no_random_bytes():
    """A kernel without randomness: no port opens, no key is made."""
    with Deployment() as service:
        service.start()
        recovered = service.recovers()
        service.stop()
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=getrandom", "-e", "inject=getrandom:error=EAGAIN"]
        seen = []
        for command in (["serve"], ["keys", "new", "Weak1", "--directory", "weak"]):
            process = subprocess.Popen(
                [*trace, BINARY, *command],
                cwd=service.folder,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            deadline = time.monotonic() + 5
            while process.poll() is None and time.monotonic() < deadline:
                for port in (service.port, service.ops):
                    with socket.socket() as client:
                        expect(client.connect_ex(("127.0.0.1", port)) != 0, "it listens without random bytes")
                time.sleep(0.1)
            how = f"ends with {process.returncode}" if process.poll() is not None else "waits for them"
            if process.poll() is None:
                subprocess.run(["kill", "-9", f"-{process.pid}"], check=True)
                process.wait()
            expect(process.returncode != 0, f"{command[0]} succeeded without random bytes")
            seen.append(f"`{' '.join(command[:2])}` {how}")
        expect(not list(service.folder.glob("weak/*.key")), "a key was made without random bytes")
        return f"{', '.join(seen)}; no port, no key", recovered
