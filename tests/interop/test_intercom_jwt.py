"""Intercom user JWTs: HS256 with the secret of the workspace, as PyJWT and ruby-jwt read them."""

import jwt
import pytest
from verifiers import Refused, assert_fresh, ruby_jwt_with_secret, tampered

# Digits only, where a number would slip in most easily.
USER_ID = "4711"


def pyjwt_with_secret(token, secret):
    try:
        return jwt.decode(token, secret, ["HS256"], options={"require": ["user_id", "exp"]})
    except jwt.PyJWTError as no:
        raise Refused(no) from no


@pytest.fixture(params=[pyjwt_with_secret, ruby_jwt_with_secret], ids=["pyjwt", "ruby-jwt"])
def verify(request):
    return request.param


@pytest.fixture
def token(service):
    return service.mint("/intercom-user-jwt", user_id=USER_ID, profile="intercom.fin")["token"]


def test_both_libraries_accept_it_and_user_id_is_a_string(deployment, token, verify):
    claims = verify(token, deployment.intercom_secret)
    assert claims.keys() == {"user_id", "exp", "iat"}
    assert claims["user_id"] == USER_ID
    assert_fresh(claims, 3600)


def test_both_libraries_refuse_it_once_tampered_with(deployment, token, verify):
    with pytest.raises(Refused):
        verify(tampered(token, user_id="4712"), deployment.intercom_secret)


def test_both_libraries_refuse_it_with_another_secret(deployment, token, verify):
    # The newline at the end of the secret's file, were it not trimmed, would make just this secret work.
    with pytest.raises(Refused):
        verify(token, deployment.intercom_secret + "\n")
