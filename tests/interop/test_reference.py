"""docs/reference: http.md has the fields of openapi.yaml, and the JSON Schema of the configuration agrees with the parser."""

import json
import os
import re
import subprocess
import tomllib

import jsonschema_rs
import pytest
import yaml
from service import REPO, environment

PAGE = (REPO / "docs/reference/http.md").read_text()
OPENAPI = yaml.safe_load((REPO / "openapi.yaml").read_text())


def resolved(schema):
    while "$ref" in schema:
        target = OPENAPI
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def fields(schema):
    """Each field, and whether it is optional."""
    schema = resolved(schema)
    return {name: name not in schema.get("required", []) for name in schema["properties"]}


def listed(text):
    return {name: bool(optional) for name, optional in re.findall(r"^- `(\w+)`( \(optional\))?: ", text, re.MULTILINE)}


def section_of(path):
    return PAGE.split(f"### `POST {path}`\n")[1].split("\n## ")[0].split("\n### ")[0]


TOKEN_ENDPOINTS = ["/oauth2/token", "/services/oauth2/token"]


@pytest.mark.parametrize(
    "path", [path for path, item in OPENAPI["paths"].items() if "post" in item and path not in TOKEN_ENDPOINTS]
)
def test_each_route_for_tokens_has_its_fields(path):
    operation = OPENAPI["paths"][path]["post"]
    section = section_of(path)
    body, answer = section.split("**Body**")[1].split("**Answer**")
    assert listed(body) == fields(operation["requestBody"]["content"]["application/json"]["schema"])
    response = resolved(operation["responses"]["200"])
    assert listed(answer) == fields(response["content"]["application/json"]["schema"])


def test_the_token_endpoint_has_its_parameters_and_fields():
    """Each grant has a list of its own, and the credentials are in the text."""
    first, second = (OPENAPI["paths"][path]["post"] for path in TOKEN_ENDPOINTS)
    assert (first["requestBody"], first["responses"]) == (second["requestBody"], second["responses"])
    parameters = fields(first["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"])
    answer = fields(resolved(first["responses"]["200"])["content"]["application/json"]["schema"])
    section = section_of(TOKEN_ENDPOINTS[0])
    named = set(re.findall(r"`(\w+)[`=]", section))
    assert named >= parameters.keys() | answer.keys()
    assert listed(section).keys() <= parameters.keys() | answer.keys()


def test_each_error_has_its_status_and_fields():
    errors = PAGE.split("\n## Errors\n")[1]
    schema = OPENAPI["components"]["schemas"]["ErrorAnswer"]
    assert listed(errors.split("\n### ")[0]) == fields(schema)
    codes = schema["properties"]["error"]["x-extensible-enum"]
    described = {"method_not_allowed": {405}}  # the file lists no operation with another method
    for item in OPENAPI["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                for code in re.findall(r"`(\w+)`(?=[:,]| while)", resolved(response)["description"]):
                    described.setdefault(code, set()).add(int(status))
    stated = {code: {int(status)} for status, code in re.findall(r"^### (\d+) `(\w+)`$", errors, re.MULTILINE)}
    assert stated == {code: described[code] for code in codes}


class Configuration:
    """A configuration that `check` and the JSON Schema judge."""

    def __init__(self, folder, schema):
        self.folder = folder
        self.schema = jsonschema_rs.Draft202012Validator(schema)

    def faults(self, text):
        """The paths of the faults that the schema finds."""
        errors = self.schema.iter_errors(tomllib.loads(text))
        return sorted(".".join(str(step) for step in error.instance_path) for error in errors)

    def is_refused_by_check(self, text):
        (self.folder / "tokenmint.toml").write_text(text)
        ran = run("check", cwd=self.folder)
        assert ran.returncode in (0, 64), ran.stderr
        return ran.returncode == 64


def run(*arguments, cwd):
    binary = os.path.abspath(os.environ["TOKENMINT_BIN"])
    return subprocess.run([binary, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def schema():
    ran = run("schema", cwd=REPO)
    assert (ran.returncode, ran.stderr) == (0, "")
    schema = json.loads(ran.stdout)
    jsonschema_rs.meta.validate(schema)
    return schema


@pytest.fixture(scope="module")
def written(schema, tmp_path_factory):
    """What `init` writes, with every value filled in."""
    folder = tmp_path_factory.mktemp("written")
    ran = run("init", ".", "--issuer", "intercom.com", "--with", "fin,messaging,oauth", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    (folder / "intercom.secret").write_text("a-messenger-api-secret-of-40-characters!")
    text = (folder / "tokenmint.toml").read_text()
    for name, value in FILLED_IN.items():
        assert f'{name} = ""' in text
        text = text.replace(f'{name} = ""', f'{name} = "{value}"')
    return Configuration(folder, schema), text


FILLED_IN = {
    "scrt_url": "https://acme.my.salesforce-scrt.com",
    "org_id": "00D000000000001",
    "es_developer_name": "Web_Channel",
    "consumer_key": "3MVG9.made.up",
    "username": "integration@acme.example",
    "audience": "https://acme.my.salesforce.com",
}


def test_the_schema_accepts_the_example(schema, tmp_path):
    text = (REPO / "keys.example/tokenmint.toml").read_text()
    judged = Configuration(tmp_path, schema)
    assert judged.faults(text) == []
    # Every disabled setting, with each secret in a file.
    enabled = re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)
    enabled = re.sub(r"^(audit_key|key|password|passphrase|secret) = .*\n", "", enabled, flags=re.MULTILINE)
    assert judged.faults(enabled) == []
    assert len(tomllib.loads(enabled)["server"]) > len(tomllib.loads(text)["server"]) + 5


def test_the_schema_accepts_what_init_writes(written):
    judged, text = written
    assert judged.faults(text) == [] and not judged.is_refused_by_check(text)


def test_the_schema_names_the_values_that_init_leaves_open(written):
    judged, text = written
    for name, value in FILLED_IN.items():
        open_value = text.replace(f'{name} = "{value}"', f'{name} = ""')
        assert [fault.rsplit(".")[-1] for fault in judged.faults(open_value)] == [name]


HS256 = "[hs256.x]\nsecret_file = 'intercom.secret'\nsubject_claim = 'u'\n"
WRONG = [
    # unknown keys and sections
    ("[server]", "[server]\nlisten_on = 1", "server"),
    ("[server]", "[servers]\n[server]", ""),
    ("[identity.web]", "[identity.web]\nisuer = 'x'", "identity.web"),
    # wrong types
    ('listen = "127.0.0.1:8080"', "listen = 8080", "server.listen"),
    ('ttl = "1h"', "ttl = 3600", "identity.web.ttl"),
    ("[callers.web-backend]", '[callers.web-backend]\nrate = "10"', "callers.web-backend.rate"),
    ("[intercom.fin]", '[intercom.fin]\nallow_short_secret = "yes"', "intercom.fin.allow_short_secret"),
    ('keyset = "web"', 'keyset = ["web"]', "identity.web.keyset"),
    # values out of bounds
    ("[server]", "[server]\nlimits.body = 2097152", "server.limits.body"),
    ("[server]", "[server]\nlimits.connections = 0", "server.limits.connections"),
    ("[oauth.crm]", "[oauth.crm]\nlogins_per_hour = 3601", "oauth.crm.logins_per_hour"),
    ("[callers.web-backend]", "[callers.web-backend]\nrate = 1000001", "callers.web-backend.rate"),
    # wrong forms
    ('listen = "127.0.0.1:8080"', 'listen = ":8080"', "server.listen"),
    ('ttl = "1h"', 'ttl = "an hour"', "identity.web.ttl"),
    ("[server]", "[server]\nlimits.body = '16 MB'", "server.limits.body"),
    ("[server]", "[server]\naudit = 'always'", "server.audit"),
    ("https://acme.my.salesforce-scrt.com", "http://acme.my.salesforce-scrt.com", "identity.web.messaging.scrt_url"),
    ("[identity.web]", "[identity.'we b']\nkeyset = 'web'\nissuer = 'x'\n[identity.web]", "identity"),
    ("[callers.web-backend]", "[callers.web-backend]\nclient_san = ['*.internal']", "callers.web-backend.client_san.0"),
    ("[intercom.fin]", f"{HS256}kid = 'a b'\n[intercom.fin]", "hs256.x.kid"),
    ("[intercom.fin]", f"{HS256}cty = ''\n[intercom.fin]", "hs256.x.cty"),
    ("[intercom.fin]", f"{HS256}fixed_claims = 1\n[intercom.fin]", "hs256.x.fixed_claims"),
    ("[intercom.fin]", f"{HS256}fixed_claims = {{ '' = 1 }}\n[intercom.fin]", "hs256.x.fixed_claims"),
    # rules about several keys
    ("[intercom.fin]", "[hs256.x]\nsubject_claim = 'u'\n[intercom.fin]", "hs256.x"),
    ("[intercom.fin]", "[hs256.x]\nsecret_file = 'intercom.secret'\n[intercom.fin]", "hs256.x"),
    ('issuer = "intercom.com"', "", "identity.web"),
    ('directory = "keys/web"', 'directory = "keys/web"\nkid = "K1"', "keysets.web"),
    ('directory = "keys/web"', "key_file = 'web.key'", "keysets.web"),
    ('secret_file = "intercom.secret"', "secret_file = 'intercom.secret'\nsecret = 'x'", "intercom.fin"),
    ("[callers.web-backend]", "[callers.web-backend]\nburst = 5", "callers.web-backend"),
    ("salesforce_identity_token = \"identity.web\"\nintercom_user_jwt = \"intercom.fin\"", "", "bundles.fin"),
]


@pytest.mark.parametrize(("good", "wrong", "path"), WRONG)
def test_the_schema_refuses_what_check_refuses(written, good, wrong, path):
    judged, text = written
    assert good in text
    text = text.replace(good, wrong, 1)
    assert judged.is_refused_by_check(text)
    assert path in judged.faults(text)
