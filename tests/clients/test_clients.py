"""Clients that others' tools generate from openapi.yaml work, and docs/integrate/generated-clients.md says so truly."""

import json
import os
import re
import subprocess
import textwrap

import jwt
import pytest
from clients import CLIENTS, INSTALLED, PROGRAMS, environment, generate, shell
from conftest import CLAIMS
from service import ISSUER, REPO

PAGE = REPO / "docs/integrate/generated-clients.md"
BEGIN, END = "<!-- begin: written by tests/clients -->\n", "<!-- end -->\n"


def without_null(value):
    """The value without the `null` items of its arrays, at any depth."""
    if isinstance(value, list):
        return [without_null(item) for item in value if item is not None]
    return {name: without_null(item) for name, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.folder.name)
def test_a_generated_client_mints_a_token_with_claims_of_each_json_kind(client, service):
    generate(client)
    if client.build:
        shell(client, client.build)
    if not client.run:
        pytest.skip(f"{client.language} was generated; nothing here can run it")
    printed = shell(client, client.run, TOKENMINT_URL=service.url, TOKENMINT_API_KEY=service.deployment.api_key)
    answer = json.loads(printed)
    token = answer.pop("token")
    key = jwt.PyJWKClient(service.jwks_url("web")).get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"], issuer=ISSUER)
    assert claims.pop("sub") == "user-4711"
    expected = without_null(CLAIMS) if client.loses_null_in_arrays else CLAIMS
    # As JSON: in Python, 1 equals 1.0 and True.
    sent = {name: claims[name] for name in CLAIMS}
    assert json.dumps(sent, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert claims.keys() == {*CLAIMS, "iss", "iat", "exp"}
    # An Intercom JWT has no key id, so `kid` is null.
    assert answer == {"kid": None, "status": 400, "error": "invalid_request", "field": "claims.unlisted"}


def test_spectral_finds_nothing(tmp_path):
    # The document is about everybody's own service, so there is nobody to contact.
    (tmp_path / "ruleset.yaml").write_text("extends: spectral:oas\nrules: {info-contact: off}\n")
    command = ["spectral", "lint", str(REPO / "openapi.yaml"), "--ruleset", "ruleset.yaml", "--fail-severity", "hint"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def written():
    """The part of the page that this file writes: the table, and the command of each row."""
    lines = ["| language | generator | result in CI | what to know |", "|---|---|---|---|"]
    lines += [f"| {client.language} | {client.generator} | {client.result} | {client.note} |" for client in CLIENTS]
    lines += ["", "## Commands"]
    for client in CLIENTS:
        heading = re.sub(r" [\d.]+", "", f"### {client.language}: {client.generator}")  # an anchor that outlives the version
        lines += ["", heading, "", "```console", *client.generate.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def test_the_page_has_the_results():
    before, rest = PAGE.read_text().split(BEGIN)
    old, after = rest.split(END)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(before + BEGIN + written() + END + after)
    else:
        assert old == written(), f"UPDATE_DOCS=1 make clients writes {PAGE}"


def test_the_code_of_the_page_is_in_the_programs():
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text().split(BEGIN)[0], re.MULTILINE | re.DOTALL)
    programs = [textwrap.dedent(path.read_text()) for path in PROGRAMS.rglob("*.*")]
    code = [text for language, text in blocks if language != "console"]
    assert code
    for text in code:
        assert any(text in program for program in programs), text


def test_the_programs_are_those_of_the_list():
    assert {path.name for path in PROGRAMS.iterdir()} == {client.program for client in CLIENTS if client.program}
