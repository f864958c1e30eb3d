"""OAuth clients log in at the token endpoint: the recipes of docs/integrate/oauth-clients.md."""

import base64
import json
import os
import shutil
import subprocess
import time
from urllib.parse import quote_plus

import pytest
import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from issuers import make_authority
from oauth_clients import CODE, PAGE, QUERY, Recipe, Salesforce, query_at_once, records
from service import TOOLS

HAS_RESTFORCE = subprocess.run(["ruby", "-e", 'require "restforce"'], capture_output=True).returncode == 0
RECIPES = [
    "jsforce.mjs",
    "simple_salesforce_client.py",
    "authlib_client.py",
    "requests_oauthlib_client.py",
    "oauth4webapi.mjs",
    "openid-client.mjs",
]
NAMES = RECIPES + (["restforce_client.rb"] if HAS_RESTFORCE else [])
RESTFORCE = pytest.param("restforce_client.rb", marks=pytest.mark.skipif(not HAS_RESTFORCE, reason="no gem restforce"))
# How many processes start at once. 200 take some 8 GB of memory.
PROCESSES = int(os.environ.get("OAUTH_CLIENTS", "40"))
# The other way of sending the secret.
OTHER_METHOD = {"ClientSecretBasic": "ClientSecretPost", "ClientSecretPost": "ClientSecretBasic"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start(tmp_path_factory, authority, run_service):
    started = []

    def start(more=""):
        started.append(Salesforce(tmp_path_factory.mktemp("salesforce"), *authority, run_service, more))
        return started[-1]

    yield start
    for salesforce in started:
        salesforce.close()


@pytest.fixture
def salesforce(start):
    return start()


def test_the_page_has_no_recipe_that_no_test_runs():
    others = {"restforce_client.rb", "private-key-jwt.mjs", "token.sh", "agent.sh"}
    others.add("salesforce.go")  # tests/clients, which has Go
    assert set(CODE) == {*RECIPES, *others}


@pytest.mark.parametrize("name", [*RECIPES, RESTFORCE])
def test_a_client_makes_queries_and_recovers_from_a_session_that_salesforce_ended(name, salesforce):
    client = Recipe(name, salesforce)
    assert records(client.query()) and records(client.query())
    assert salesforce.logins() == 1
    salesforce.end_sessions()
    # restforce can't say that Salesforce refused its token: it gets another one after `check_session`.
    result = client.query() if name in RECIPES else wait_for_records(client)
    assert records(result) and records(client.query())
    assert salesforce.logins() == 2


def wait_for_records(client):
    deadline = time.monotonic() + 20
    while "records" not in (result := client.query()):
        assert time.monotonic() < deadline, result
    return result


def test_twenty_clients_of_all_kinds_recover_from_one_ended_session_with_one_login(salesforce):
    clients = [Recipe(NAMES[number % len(NAMES)], salesforce) for number in range(20)]
    for result in query_at_once(clients):
        assert records(result)
    assert salesforce.logins() == 1
    salesforce.end_sessions()
    results = query_at_once(clients)
    for client, result in zip(clients, results, strict=True):
        assert records(wait_for_records(client) if client.process.args[0] == "ruby" else result)
    assert salesforce.logins() == 2


def test_many_processes_of_jsforce_that_start_at_once_share_one_login(salesforce):
    # Node takes long to load jsforce. They do that first, so that all ask for a token at the same time.
    preload = f"--require={TOOLS}/node/node_modules/jsforce/lib/index.js"
    clients = [Recipe("jsforce.mjs", salesforce, NODE_OPTIONS=preload) for _ in range(PROCESSES)]
    results = query_at_once(clients)
    failures = [result for result in results if "records" not in result]
    assert not failures, f"{len(failures)} of {PROCESSES}: {failures[:3]}"
    assert salesforce.logins() == 1


def test_a_jsforce_that_only_logs_in_again_recovers_after_check_session(salesforce):
    """Many applications have this `refreshFn`: it doesn't say that Salesforce refused the token."""
    code = CODE["jsforce.mjs"].replace(", rejected_token: accessToken }", " }")
    assert code != CODE["jsforce.mjs"]
    clients = [Recipe("jsforce.mjs", salesforce, code) for _ in range(5)]
    assert all(records(result) for result in query_at_once(clients))
    salesforce.end_sessions()
    query_at_once(clients)
    assert all(records(wait_for_records(client)) for client in clients)
    assert salesforce.logins() == 2


@pytest.mark.parametrize("name", ["authlib_client.py", "oauth4webapi.mjs", "openid-client.mjs"])
def test_a_client_can_send_its_credentials_in_the_header_or_in_the_form(name, salesforce):
    code = CODE[name]
    method = next((method for method in OTHER_METHOD if method in code), None)
    if method:
        code = code.replace(method, OTHER_METHOD[method])
    else:
        code = code.replace('grant_type="', 'token_endpoint_auth_method="client_secret_post", grant_type="')
    assert code != CODE[name]
    assert records(Recipe(name, salesforce, code).query())


def test_each_library_reports_invalid_client(salesforce):
    for name in NAMES:
        result = Recipe(name, salesforce, TOKENMINT_API_KEY="another key").query()
        # simple-salesforce has no OAuth of its own, so its recipe uses requests.
        expected = "401 Client Error" if name.startswith("simple") else "invalid_client"
        assert expected in result["error"], f"{name}: {result}"
    assert salesforce.logins() == 0


def test_each_library_reports_unauthorized_client(salesforce):
    for name in NAMES:
        code = CODE[name].replace("'jobs'", "'page'").replace('"jobs"', '"page"')
        result = Recipe(name, salesforce, code, TOKENMINT_API_KEY="page-key").query()
        expected = "400 Client Error" if name.startswith("simple") else "unauthorized_client"
        assert expected in result["error"], f"{name}: {result}"
    assert salesforce.logins() == 0


def test_a_client_can_sign_a_jwt_of_its_own(start, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    write_jwks(key, tmp_path / "signer.jwks.json")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "signer.key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    more = configuration_of_page("[issuers.signer]").replace("https://tokens.example.com", "TOKENMINT")
    salesforce = start(more.replace('"signer.jwks.json"', f'"{tmp_path}/signer.jwks.json"'))
    code = CODE["private-key-jwt.mjs"] + "export const query = () => [{ Id: token.access_token }];"
    client = Recipe("private-key-jwt.mjs", salesforce, code, CLIENT_KEY_FILE=str(tmp_path / "signer.key"))
    assert records(client.query())
    assert salesforce.logins() == 1


def write_jwks(key, file):
    numbers = key.public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(part.to_bytes(32)).rstrip(b"=").decode() for part in (numbers.x, numbers.y))
    jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "signer-1", "x": x, "y": y}
    file.write_text(json.dumps({"keys": [jwk]}))


def test_the_configuration_of_the_page_is_accepted(service, tmp_path):
    shutil.copytree(service.deployment.folder / "keys", tmp_path / "keys")
    write_jwks(ec.generate_private_key(ec.SECP256R1()), tmp_path / "signer.jwks.json")
    blocks = [configuration_of_page(first) for first in ("[oauth.crm]", "[issuers.signer]")]
    config = tmp_path / "tokenmint.toml"
    config.write_text("\n".join(['[keysets.crm]\ndirectory = "keys/crm"', *blocks]))
    service.run("check", "--config", str(config))


def configuration_of_page(first_line):
    start = PAGE.read_text().index(f"```toml\n{first_line}")
    return PAGE.read_text()[start:].split("```")[1].removeprefix("toml\n")


def shell(name, salesforce, script=None, **settings):
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script or CODE[name]],
        env=salesforce.settings() | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_curl_gets_a_token(salesforce):
    answer = json.loads(shell("token.sh", salesforce))
    assert (answer["instance_url"], answer["token_type"]) == (salesforce.front.url, "Bearer")


def test_the_agent_api_accepts_a_token_in_jwt_format(salesforce):
    salesforce.set(jwt_access_tokens=True)
    assert json.loads(shell("agent.sh", salesforce, AGENT_ID="0XxSB000000IPCr0AO"))["sessionId"]
    assert salesforce.logins() == 1


def block_of_page(heading, language):
    section = PAGE.read_text().split(f"\n## {heading}\n")[1]
    return section.split(f"```{language}\n")[1].split("```")[0]


def test_the_request_of_spring_security_gets_a_token(salesforce):
    """What Spring Security sends for the page's configuration, by requests: its jars can't be had here."""
    settings = block_of_page("Spring Security", "yaml")
    settings = settings.replace("${TOKENMINT_URL}", salesforce.tokenmint.url)
    client = yaml.safe_load(settings)["spring"]["security"]["oauth2"]["client"]
    (name, registration), (provider, addresses) = *client["registration"].items(), *client["provider"].items()
    assert name == provider and registration["client-authentication-method"] == "client_secret_basic"
    assert registration["client-secret"] == "${TOKENMINT_API_KEY}"
    # It encodes both for the form before it joins them (RFC 6749, section 2.3.1).
    credentials = tuple(quote_plus(text) for text in (registration["client-id"], salesforce.API_KEY))
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
    form = {"grant_type": registration["authorization-grant-type"]}
    answer = requests.post(
        addresses["token-uri"], form, auth=credentials, headers=headers, verify=salesforce.ca_file, timeout=10
    )
    assert answer.status_code == 200, answer.text
    token = answer.json()
    assert (token["token_type"], token["instance_url"]) == ("Bearer", salesforce.front.url)


def test_the_commands_before_sf_get_a_token_that_salesforce_accepts(salesforce):
    """`sf` itself can't be had here. It looks up its user at userinfo first."""
    commands, _ = block_of_page("sf", "console").split("sf org login access-token")
    script = commands + 'printf "%s %s" "$SF_ACCESS_TOKEN" "$(jq -r .instance_url <<< "$token")"'
    printed = shell("sf", salesforce, script)
    token, instance = printed.split(" ")
    answer = requests.get(
        f"{instance}/services/oauth2/userinfo",
        headers={"Authorization": f"Bearer {token}"},
        verify=salesforce.ca_file,
        timeout=10,
    )
    assert answer.status_code == 200 and answer.json()["preferred_username"], answer.text


def test_the_requests_of_restforce_get_a_token(salesforce):
    """What restforce sends (lib/restforce/middleware/authentication), by curl: the gem isn't everywhere."""
    form = {"grant_type": "client_credentials", "client_id": "jobs", "client_secret": salesforce.API_KEY}
    command = ["curl", "-sS", f"{salesforce.tokenmint.url}/services/oauth2/token", "-H", "Accept: */*"]
    command += ["-H", "Accept-Encoding: gzip;q=1.0,deflate;q=0.6,identity;q=0.3"]
    for name, value in form.items():
        command += ["--data-urlencode", f"{name}={value}"]
    ran = subprocess.run(command, env=salesforce.settings(), capture_output=True, text=True, check=True, timeout=30)
    token = json.loads(ran.stdout)
    assert token["instance_url"] == salesforce.front.url
    url = f"{token['instance_url']}/services/data/v62.0/query"
    headers = {"Authorization": f"OAuth {token['access_token']}"}
    answer = requests.get(url, {"q": QUERY}, headers=headers, verify=salesforce.ca_file, timeout=10)
    assert answer.json()["totalSize"] == 1, answer.text
