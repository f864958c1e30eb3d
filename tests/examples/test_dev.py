"""`tokenmint dev` beside each example, started by the line that it prints."""

import json
import os
import re
import subprocess

import jwt
import pytest
from apps import COMMANDS, EXAMPLES, App, environment
from verifiers import assert_fresh, pyjwt


@pytest.fixture(scope="module")
def dev():
    """What it prints, while it runs."""
    command = [os.environ["TOKENMINT_BIN"], "dev", "--listen", "127.0.0.1:0"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("Stop "):
                break
        yield lines
        process.kill()


def line_for(name, dev):
    [line] = [line for line in dev if line.startswith(f"(cd examples/{name} && ")]
    return line


def assert_tokens_of(user, tokens, line):
    url = re.search(r"TOKENMINT_URL=(\S+)", line)[1]
    claims = pyjwt(f"{url}/keysets/web/jwks.json", tokens["salesforce_identity_token"], "RS256", "tokenmint-dev", user)
    assert_fresh(claims, 3600)
    # Its secret is known to nobody.
    claims = jwt.decode(tokens["intercom_user_jwt"], options={"verify_signature": False})
    assert claims["user_id"] == user


def test_every_example_has_its_line(dev):
    """But the browser's side, which comes with the backends."""
    examples = {folder.name for folder in EXAMPLES.iterdir()} - {"browser"}
    assert examples == {*COMMANDS, "curl"}
    for name in examples:
        line_for(name, dev)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_starts_a_backend_whose_pages_have_both_tokens(dev, name, tmp_path):
    line = line_for(name, dev)
    app = App.pasted(name, tmp_path, line)
    try:
        browser = app.wait().visitor("user-1")
        assert_tokens_of("user-1", browser.page().tokens["tokens"], line)
        assert_tokens_of("user-1", browser.get("/chat-tokens").json()["tokens"], line)
    finally:
        app.kill()


def test_the_line_of_curl_prints_both_tokens(dev):
    line = line_for("curl", dev)
    ran = subprocess.run(
        ["bash", "-c", line], cwd=EXAMPLES.parent, env=environment(), capture_output=True, text=True, timeout=20
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_tokens_of("user-1", json.loads(ran.stdout)["tokens"], line)
