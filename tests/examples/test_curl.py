"""examples/curl/chat-tokens, as a job or another program runs it."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from apps import EXAMPLES, REFUSED, STAND_IN_KEY, assert_logged, environment, refusals
from service import free_port
from verify import assert_tokens_of

SCRIPT = EXAMPLES / "curl" / "chat-tokens"


def run(url, key, *arguments):
    began = time.monotonic()
    ran = subprocess.run(
        [SCRIPT, *arguments],
        env=environment(TOKENMINT_URL=url, TOKENMINT_API_KEY=key),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert time.monotonic() - began < 2
    assert key not in ran.stdout + ran.stderr
    return ran


@pytest.mark.parametrize("user", ["user-1", '"},{"sub":"victim', "Zoë 漢字", "-x @/etc/passwd", "$(id) `id` \\ '"])
def test_tokens_of_the_user(service, user):
    ran = run(service.url, service.deployment.api_key, user)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_tokens_of(user, json.loads(ran.stdout)["tokens"], service)


def test_usage(service):
    for arguments in ([], [""], ["a", "b"]):
        ran = run(service.url, service.deployment.api_key, *arguments)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "usage" in ran.stderr


def test_wrong_key(service):
    ran = run(service.url, "wrong-key", "user-1")
    assert (ran.returncode, ran.stdout) == (1, "")
    [(status, refusal)] = refusals(ran.stderr)
    assert (status, refusal["error"]) == ("401", "invalid_client")
    assert_logged(service, refusal["request_id"])


def command_lines():
    """Of all processes, as anybody on this machine can read them."""
    lines = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return b"\n".join(lines)


def test_slow_and_the_key_is_in_no_command_line(service):
    os.kill(service.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, service.process.pid, os.WSTOPPED)
    try:
        key = service.deployment.api_key
        settings = environment(TOKENMINT_URL=service.url, TOKENMINT_API_KEY=key)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = subprocess.Popen([SCRIPT, "user-1"], env=settings, **pipes)
        while b"/bundle" not in (lines := command_lines()):
            assert running.poll() is None, "curl has ended before it was looked at"
            time.sleep(0.01)
        assert key.encode() not in lines
        out, said = running.communicate(timeout=2)
        assert (running.returncode, out) == (1, b"")
        assert b"no answer in time" in said
    finally:
        os.kill(service.process.pid, signal.SIGCONT)


def test_down():
    ran = run(f"http://127.0.0.1:{free_port()}", STAND_IN_KEY, "user-1")
    assert (ran.returncode, ran.stdout) == (1, "")


def test_too_many_requests(stand_in):
    stand_in.answer = (429, {"Retry-After": "7"}, b'{"error": "rate_limited"}')
    ran = run(stand_in.url, STAND_IN_KEY, "user-1")
    assert (ran.returncode, ran.stdout) == (75, "")
    assert refusals(ran.stderr) == [("429", {"error": "rate_limited"})]
    assert ran.stderr.endswith(", try again in 7 s\n")
    assert stand_in.heard[-1] == ("/bundle", f"Bearer {STAND_IN_KEY}", {"sub": "user-1"})


def test_answers_that_are_none(stand_in):
    for answer in [(500, {}, b""), (403, {}, b"<html>"), (502, {}, b"[1]"), (503, {}, REFUSED)]:
        stand_in.answer = answer
        ran = run(stand_in.url, STAND_IN_KEY, "user-1")
        assert (ran.returncode, ran.stdout) == (1, "")
        said = {"error": "access_denied", "request_id": "4f\nx"} if answer[2] == REFUSED else {}
        assert refusals(ran.stderr) == [(str(answer[0]), said)]
        assert ran.stderr.count("\n") == 1
        assert "SECRET-DESCRIPTION" not in ran.stderr
