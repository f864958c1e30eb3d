"""Access tokens, the whole circle: tokenmint, its sandbox, and the clients that people use on the other side."""

import json
import subprocess
import time

import jwt
import pytest
import requests
from service import CONSUMER_KEY, LOGIN_AUDIENCE, USERNAME, Deployment, environment, free_port
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import SalesforceExpiredSession
from verifiers import Refused, script, tampered

jsforce = script("node", "jsforce.cjs")
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture(scope="module")
def salesforce():
    """Where the sandbox of this module listens."""
    return f"http://127.0.0.1:{free_port()}"


# One for each test: a token may be rejected three times, and then once in half a minute.
@pytest.fixture
def circle(tmp_path_factory, run_service, salesforce):
    """A service whose Salesforce is the sandbox, made from the same configuration."""
    deployment = Deployment(tmp_path_factory.mktemp("circle"), f"{salesforce}/services/oauth2/token")
    text = deployment.config.read_text().replace(f'scrt_url = "{deployment.url}"', f'scrt_url = "{salesforce}"')
    assert f'scrt_url = "{salesforce}"' in text
    deployment.config.write_text(text)
    service = run_service(deployment)
    command = [service.binary, "sandbox", "--config", deployment.config, "--listen", salesforce.removeprefix("http://")]
    command += ["--jwks-base", deployment.url]
    sandbox = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                requests.get(f"{salesforce}/__sandbox/state", timeout=2)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield service
    finally:
        sandbox.terminate()
        assert sandbox.wait(timeout=10) == 0


@pytest.fixture(autouse=True)
def in_a_good_mood(circle, salesforce):
    requests.post(f"{salesforce}/__sandbox/reset", timeout=5).raise_for_status()


def oauth(circle, **more):
    return circle.mint("/oauth-access-token", profile="crm", **more)


def simple_salesforce(answer):
    client = Salesforce(instance_url=answer["instance_url"], session_id=answer["access_token"])
    # It speaks https whatever it is told; the sandbox is plain and on loopback.
    client.base_url = client.base_url.replace("https://", "http://")
    return client


def state(salesforce):
    return requests.get(f"{salesforce}/__sandbox/state", timeout=5).json()


def test_jsforce_makes_a_query_with_the_access_token(circle):
    # The reset ended the sessions of the test before, so the kept token may be dead.
    answer = fresh(circle)
    assert jsforce(answer["instance_url"], answer["access_token"])["Id"]
    with pytest.raises(Refused):
        jsforce(answer["instance_url"], answer["access_token"][:-1] + "~")


def test_simple_salesforce_makes_a_query_with_the_access_token(circle):
    result = simple_salesforce(fresh(circle)).query("SELECT Id, Name FROM Account LIMIT 1")
    assert result["totalSize"] == 1


def fresh(circle):
    """A token that is alive at Salesforce, whatever was kept before."""
    kept = oauth(circle)["access_token"]
    return oauth(circle, rejected_token=kept)


def test_a_session_that_salesforce_ended_is_renewed_when_the_caller_says_so(circle, salesforce):
    answer = fresh(circle)
    requests.post(f"{salesforce}/__sandbox/expire-sessions", timeout=5).raise_for_status()
    with pytest.raises(SalesforceExpiredSession):
        simple_salesforce(answer).query("SELECT Id FROM Account LIMIT 1")
    assert oauth(circle)["cached"] is True
    renewed = oauth(circle, rejected_token=answer["access_token"])
    assert renewed["access_token"] != answer["access_token"]
    assert simple_salesforce(renewed).query("SELECT Id FROM Account LIMIT 1")["totalSize"] == 1


def test_a_messaging_token_is_the_verified_user_s(circle, salesforce):
    answer = circle.mint("/messaging-access-token", profile="web", sub="user-77")
    assert answer["verified"] is True
    assert answer["subject"].startswith("v2/iamessage/AUTH/") and answer["subject"].endswith("/uid:user-77")
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["sub"] == answer["subject"] and claims["exp"] == answer["expires_at"]
    # The sandbox fetched the keys as Salesforce would, and verified with them.
    assert state(salesforce)["counts"]["verified"] == 1


def test_a_guest_s_session_is_never_handed_out(circle, salesforce):
    fault = [{"path": "messaging", "fault": "anonymous", "times": 1}]
    requests.post(f"{salesforce}/__sandbox/faults", json=fault, timeout=5).raise_for_status()
    answer = circle.post("/messaging-access-token", {"profile": "web", "sub": "user-78"})
    assert (answer.status_code, answer.json()["error"]) == (502, "unverified")


def assertion(circle, key=None, **changes):
    """An assertion made by PyJWT, the way simple-salesforce makes its own: `exp` as a string, no kid, no jti."""
    claims = {"iss": CONSUMER_KEY, "sub": USERNAME, "aud": LOGIN_AUDIENCE, "exp": str(int(time.time()) + 180)}
    key = key or next((circle.deployment.folder / "keys" / "crm").glob("*.key")).read_bytes()
    return jwt.encode(claims | changes, key, algorithm="RS256")


def login(salesforce, token):
    form = {"grant_type": JWT_BEARER, "assertion": token}
    return requests.post(f"{salesforce}/services/oauth2/token", data=form, timeout=10)


def test_the_sandbox_takes_an_assertion_that_tokenmint_did_not_make(circle, salesforce):
    answer = login(salesforce, assertion(circle))
    assert answer.status_code == 200, answer.text
    assert "expires_in" not in answer.json()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"aud": "https://example.com"}, {"error": "invalid_grant", "error_description": "audience is invalid"}),
        ({"iss": "3MVG9-another"}, {"error": "invalid_client_id", "error_description": "client identifier invalid"}),
        ({"exp": 1}, {"error": "invalid_grant", "error_description": "expired authorization code"}),
    ],
)
def test_the_sandbox_refuses_in_salesforce_s_words(circle, salesforce, changes, error):
    answer = login(salesforce, assertion(circle, **changes))
    assert (answer.status_code, answer.json()) == (400, error)


def test_the_sandbox_refuses_a_tampered_assertion(circle, salesforce):
    answer = login(salesforce, tampered(assertion(circle), sub="admin@acme.com"))
    assert answer.json()["error_description"] == "invalid assertion", json.dumps(answer.json())
