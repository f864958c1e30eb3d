"""What the command line prints is good for others too: tokens verify, and a single JWK is one that libraries load."""

import json

import jwt
import pytest
from service import ISSUER, KIDS
from verifiers import BY_JWKS_URL, Refused, assert_fresh, jose_with_one_jwk, tampered

SUB = "user-from-the-command-line"


@pytest.fixture(scope="module")
def token(service):
    arguments = ["mint", "identity.web", "--sub", SUB, "--config", str(service.deployment.config)]
    return service.run(*arguments).decode().strip()


@pytest.fixture(scope="module")
def jwk(service):
    return json.loads(service.run("jwk", KIDS["web"], "--config", str(service.deployment.config)))


@pytest.mark.parametrize("verify", BY_JWKS_URL, ids=lambda verify: verify.__name__)
def test_a_token_minted_without_a_server_verifies_with_the_servers_keys(service, token, verify):
    claims = verify(service.jwks_url("web"), token, "RS256", ISSUER, SUB)
    assert_fresh(claims, 3600)


def test_the_printed_jwk_is_the_served_one(service, jwk):
    assert [jwk] == service.jwks("web")


def test_pyjwt_verifies_with_the_printed_jwk(token, jwk):
    key = jwt.PyJWK.from_dict(jwk)  # the algorithm is the JWK's own
    settings = {"algorithms": ["RS256"], "options": {"verify_aud": False}}
    assert jwt.decode(token, key, **settings)["sub"] == SUB
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tampered(token, sub="someone-else"), key, **settings)


def test_jose_verifies_with_the_printed_jwk(token, jwk):
    assert jose_with_one_jwk(token, json.dumps(jwk), "RS256")["sub"] == SUB
    with pytest.raises(Refused):
        jose_with_one_jwk(tampered(token, sub="someone-else"), json.dumps(jwk), "RS256")
