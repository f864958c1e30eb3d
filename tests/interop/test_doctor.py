"""The doctor's findings before others: SARIF's schema, a real terminal, and what ruby-jwt and openssl made."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
from service import ISSUER, environment
from verifiers import Refused, script

sarif = script("node", "sarif.cjs")
rails_helper = script("ruby", "rails-helper.rb")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def files(tmp_path_factory, service, deployment):
    """What people have before tokenmint, and one thing that is wrong: a JWK without its certificate."""
    folder = tmp_path_factory.mktemp("doctor")
    key, crt = folder / "WebAppKey1.key", folder / "WebAppKey1.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=acme"]
    subprocess.run([*request, "-keyout", key, "-out", crt], check=True, capture_output=True)
    key.chmod(0o600)
    (folder / "token.txt").write_text(rails_helper(str(key), "WebAppKey1", ISSUER, "user-1")["token"])
    bare = service.jwks("web")[0]
    del bare["x5c"]
    (folder / "bare.jwk").write_text(json.dumps(bare))
    return folder


@pytest.fixture(scope="module")
def ill(service, deployment, files):
    """The command line that finds a fault, some warnings, and much that is well."""
    return [service.binary, "doctor", "-v", "--config", str(deployment.config), str(files / "bare.jwk")]


def at_terminal(command, columns, **settings):
    """What a person sees, with a terminal that wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "CLICOLOR_FORCE")}
    variables |= {"TERM": "xterm-256color"} | settings
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    text = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        text += chunk
    os.close(ours)
    return process.wait(timeout=30), text.decode().replace("\r\n", "\n")


def piped(command):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment())
    return ran.returncode, ran.stdout


def test_sarif_is_valid_by_its_schema(ill, tmp_path):
    code, text = piped([*ill, "--sarif"])
    (tmp_path / "good.sarif").write_text(text)
    sarif(str(tmp_path / "good.sarif"))
    log = json.loads(text)
    levels = {result["level"] for result in log["runs"][0]["results"]}
    assert code == 1 and levels == {"none", "warning", "error"}, "a log of everything was judged"
    # The schema would have seen a mistake.
    log["runs"][0]["results"][0]["level"] = "bad"
    (tmp_path / "bad.sarif").write_text(json.dumps(log))
    with pytest.raises(Refused):
        sarif(str(tmp_path / "bad.sarif"))


def test_a_terminal_gets_colour_and_a_pipe_the_same_words_without(ill):
    code, shown = at_terminal(ill, 80)
    assert code == 1
    for colour, symbol in (("32", "✓"), ("33", "!"), ("31", "✗")):
        assert re.search(rf"\x1b\[[0-9;]*{colour}m{symbol}\x1b\[0m", shown), f"{symbol} in its colour"
    assert "\x1b" not in ESCAPE.sub("", shown)
    code, plain = piped(ill)
    assert code == 1 and plain == ESCAPE.sub("", shown)


# Variables that a CI system sets make libraries take every terminal for a good one.
@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "dumb", "CI": "true"}], ids="-".join)
def test_a_terminal_that_wants_none_gets_no_colour(ill, setting):
    _, shown = at_terminal(ill, 80, **setting)
    assert "\x1b" not in shown
    assert shown == piped(ill)[1]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_or_than_a_person_reads(ill, columns):
    _, shown = at_terminal(ill, columns)
    widths = [len(line) for line in ESCAPE.sub("", shown).splitlines()]
    assert max(widths) <= min(columns, 100)
    # The text uses the width of the terminal.
    assert max(widths) > min(columns, 100) - 15


def test_findings_are_aligned(ill):
    _, shown = piped(ill)
    lead = re.compile(r"^  [✓!✗] ([a-z0-9-]+ +)\S")
    starts = {match.end() for match in map(lead.match, shown.splitlines()) if match}
    assert len(starts) == 1, "what was seen begins in one column"


def test_what_openssl_and_ruby_jwt_made_is_well(service, files):
    given = [str(files / name) for name in ("WebAppKey1.key", "WebAppKey1.crt", "token.txt")]
    report = json.loads(service.run("doctor", "--json", *given))
    assert [finding for finding in report["findings"] if finding["outcome"] != "pass"] == []
    checks = {finding["check"] for finding in report["findings"]}
    assert {"key-form", "key-pair", "certificate-dates", "token-signature", "token-expiry"} <= checks
