"""Fixtures: a tokenmint whose identity profile lets the caller set one claim of each JSON kind."""

import os
import pathlib
import secrets
import subprocess
import sys

import pytest

# What starts tokenmint and says where the tools are: used here as it is there.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from clients import INSTALLED  # noqa: E402
from issuers import make_authority  # noqa: E402
from oauth_clients import Salesforce  # noqa: E402
from required import require_tools  # noqa: E402
from service import ISSUER, Service, free_port, sha256  # noqa: E402

# As each program of programs/ sets them.
CLAIMS = {
    "text": "Grüße",
    "integer": 9007199254740991,
    "fraction": 1.5,
    "boolean": True,
    "nothing": None,
    "list": [1, "two", [False, None], {"three": 3}],
    "object": {"a": {"b": [], "c": {}}, "d": None},
}


def pytest_configure():
    require_tools(INSTALLED, "tests/clients/setup")


class Deployment:
    """A folder with all that `serve --config` needs for an identity profile."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = self.folder / "tokenmint.toml"
        listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{listen}"
        self.api_key = secrets.token_urlsafe(32)
        key = self.folder / "keys" / "WebAppKey1.key"
        key.parent.mkdir(parents=True)
        command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
        subprocess.run(command, check=True, capture_output=True)
        key.chmod(0o600)
        secret = self.folder / "intercom.secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(32))
        self.config.write_text(f"""
[server]
listen = "{listen}"
state_directory = "state"

[keysets.web]
directory = "keys"

[identity.web]
keyset = "web"
issuer = "{ISSUER}"
claims = {list(CLAIMS)}

[intercom.fin]
secret_file = "intercom.secret"

[callers.app]
api_key_sha256 = ["{sha256(self.api_key)}"]
allow = ["identity.web", "intercom.fin"]
""")


def run_service(deployment):
    return Service(str(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()), deployment).start()


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    running = run_service(Deployment(tmp_path_factory.mktemp("deployment")))
    yield running
    running.kill()


@pytest.fixture
def salesforce(tmp_path):
    """tokenmint and the sandbox, for the recipes of docs/integrate/oauth-clients.md."""
    playing = Salesforce(tmp_path, *make_authority(tmp_path), run_service)
    yield playing
    playing.close()
