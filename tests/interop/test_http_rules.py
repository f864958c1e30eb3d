"""The strict side of the interface, met by a plain HTTP client: what is refused, how, and in which words."""

import pytest
import requests

GOOD = {"sub": "user-1", "profile": "identity.web"}
PATH = "/identity-token"


def assert_refused(answer, status, error):
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["error"] == error
    assert said["error_description"]
    assert said["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**GOOD, "colour": "red"}, "colour"),
        ({"profile": "identity.web"}, "sub"),
        ({**GOOD, "sub": 4711}, "sub"),
        ({**GOOD, "ttl": 3601}, "ttl"),
        ({"sub": "user-1"}, "profile"),
    ],
    ids=["unknown field", "no subject", "a number for a subject", "a ttl above max_ttl", "two profiles to choose from"],
)
def test_a_faulty_field_is_named(service, body, field):
    answer = service.post(PATH, body)
    assert_refused(answer, 400, "invalid_request")
    assert answer.json()["field"] == field


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "not-configured"])
def test_a_claim_that_callers_may_not_set_is_refused(service, claim):
    assert_refused(service.post(PATH, {**GOOD, "claims": {claim: "x"}}), 400, "invalid_request")


@pytest.mark.parametrize(
    "text", ['{"sub": "a", "sub": "b", "profile": "identity.web"}', "[]", "sub=user-1", "", '{"sub": "a"'],
    ids=["a field twice", "a list", "a form", "nothing", "half of it"],
)  # fmt: skip
def test_what_is_not_one_json_object_with_each_field_once_is_refused(service, text):
    answer = service.post(PATH, data=text, headers={"Content-Type": "application/json"})
    assert_refused(answer, 400, "invalid_request")


def test_another_content_type_is_refused(service):
    answer = service.post(PATH, data='{"sub": "user-1"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415, answer.text


def test_an_accept_without_json_and_jwt_is_refused(service):
    assert service.post(PATH, GOOD, headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic dXNlcjpwYXNz"])
def test_without_a_valid_api_key_nothing_is_minted(service, header):
    answer = service.post(PATH, GOOD, headers={"Authorization": header})
    assert_refused(answer, 401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_caller_gets_only_its_own_profiles(service, deployment):
    theirs = {"Authorization": f"Bearer {deployment.one_of_each_key}"}
    answer = service.post(PATH, {**GOOD, "profile": "identity.web512"}, headers=theirs)
    assert_refused(answer, 403, "access_denied")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused_and_the_right_one_named(service, deployment, method):
    key = {"Authorization": f"Bearer {deployment.api_key}"}
    answer = requests.request(method, service.url + PATH, headers=key, timeout=10)
    assert answer.status_code == 405
    assert "POST" in [allowed.strip() for allowed in answer.headers["Allow"].split(",")]
