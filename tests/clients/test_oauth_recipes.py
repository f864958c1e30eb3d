"""The recipe for Go of docs/integrate/oauth-clients.md logs in at the token endpoint. tests/interop runs the others."""

import shutil
import subprocess

import pytest
from clients import HERE, environment
from oauth_clients import CODE, Recipe, records

DRIVER = HERE / "recipes" / "driver.go"
# Where Debian's package golang-golang-x-oauth2-dev has its sources.
SOURCES = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": "/usr/share/gocode"}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("go")
    (folder / "salesforce.go").write_text(CODE["salesforce.go"])
    shutil.copy(DRIVER, folder)
    for command in (["go", "vet", "."], ["go", "build", "-o", "program", "."]):
        built = subprocess.run(command, cwd=folder, env=environment() | SOURCES, capture_output=True, text=True, timeout=300)
        assert built.returncode == 0, built.stderr
    return str(folder / "program")


def test_a_go_client_makes_queries_and_recovers_from_a_session_that_salesforce_ended(program, salesforce):
    client = Recipe("salesforce.go", salesforce, command=[program])
    assert records(client.query()) and records(client.query())
    assert salesforce.logins() == 1
    salesforce.end_sessions()
    assert records(client.query()) and records(client.query())
    assert salesforce.logins() == 2


def test_a_go_client_with_a_wrong_key_reports_invalid_client(program, salesforce):
    client = Recipe("salesforce.go", salesforce, command=[program], TOKENMINT_API_KEY="another key")
    assert "invalid_client" in client.query()["error"]
    assert salesforce.logins() == 0
