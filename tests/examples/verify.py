"""Both tokens of a page, verified by libraries that tokenmint's authors did not write."""

import jwt
import pytest
from apps import AUDIENCE, ISSUER, KID
from verifiers import Refused, assert_fresh, pyjwt, tampered


def assert_tokens_of(user, tokens, service):
    assert tokens.keys() == {"salesforce_identity_token", "intercom_user_jwt"}
    token, jwks_url = tokens["salesforce_identity_token"], service.jwks_url("web")
    claims = pyjwt(jwks_url, token, "RS256", ISSUER, user)
    assert claims.keys() == {"iss", "sub", "aud", "exp", "iat"}
    assert (claims["sub"], claims["aud"]) == (user, AUDIENCE)
    assert jwt.get_unverified_header(token)["kid"] == KID
    assert_fresh(claims, 3600)
    with pytest.raises(Refused):
        pyjwt(jwks_url, tampered(token, sub="somebody-else"), "RS256", ISSUER, "somebody-else")

    secret = service.deployment.intercom_secret
    claims = jwt.decode(tokens["intercom_user_jwt"], secret, ["HS256"], options={"require": ["exp", "iat", "user_id"]})
    assert claims["user_id"] == user
    assert_fresh(claims, 3600)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tokens["intercom_user_jwt"], secret + "x", ["HS256"])
