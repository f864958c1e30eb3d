"""OAuth assertions: an authorization server made with Authlib takes them, by RFC 7523."""

import jwt
import pytest
import requests
from service import CONSUMER_KEY, KIDS, LOGIN_AUDIENCE, USERNAME
from verifiers import assert_fresh, pyjwt, tampered


@pytest.fixture
def answer(service):
    return service.mint("/oauth-assertion", profile="oauth.crm")


def present(endpoint, answer, assertion=None):
    form = {"grant_type": answer["grant_type"], "assertion": assertion or answer["assertion"]}
    return requests.post(endpoint, data=form, timeout=10)


def test_the_token_endpoint_that_the_answer_names_gives_an_access_token_for_it(answer):
    taken = present(answer["token_endpoint"], answer)
    assert taken.status_code == 200, taken.text
    assert taken.json()["access_token"]


def test_a_server_with_another_audience_refuses_it(answer, oauth_server):
    refused = present(oauth_server.config["BASE"] + "/elsewhere/token", answer)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert "aud" in refused.json()["error_description"]


def test_it_is_refused_once_tampered_with(answer):
    refused = present(answer["token_endpoint"], answer, tampered(answer["assertion"], jti="again"))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_each_has_a_jti_of_its_own(service):
    seen = {
        jwt.decode(
            service.mint("/oauth-assertion", profile="oauth.crm")["assertion"], options={"verify_signature": False}
        )["jti"]
        for _ in range(5)
    }
    assert len(seen) == 5


def test_it_says_what_the_configuration_says_and_no_more(service, answer):
    claims = pyjwt(service.jwks_url("crm"), answer["assertion"], "RS256", CONSUMER_KEY, USERNAME)
    assert claims.keys() == {"iss", "sub", "aud", "exp", "iat", "jti"}
    assert claims["aud"] == LOGIN_AUDIENCE
    assert_fresh(claims, 150)
    assert jwt.get_unverified_header(answer["assertion"]) == {"alg": "RS256", "typ": "JWT", "kid": KIDS["crm"]}
