"""HS256 tokens for other chat products, compared with those that their own library makes, or PyJWT with their claims."""

import jwt
import pytest
from service import ZENDESK_KID
from verifiers import Refused, assert_fresh, ruby_jwt_with_secret, script, tampered

USER_ID = "4711"
UUID = "5b1e6a5e-9d0c-4f0e-8d43-0f8f4b0d9f11"

# (api_secret, user_id, exp, iat) -> the token that stream-chat makes
stream_chat = script("node", "stream-chat.cjs")

# Profile: the header beyond `alg` and `typ`, the claims that the caller sets, all claims but `iat` and `exp`, the lifetime.
ZENDESK_USER = {"name": "Ada \u00c4", "email": "ada@acme.example", "email_verified": True}
FRESHCHAT_USER = {"freshchat_uuid": UUID, "first_name": "Ada", "email": "ada@acme.example"}
PRODUCTS = {
    "zendesk": ({"kid": ZENDESK_KID}, ZENDESK_USER, {"scope": "user", "external_id": USER_ID} | ZENDESK_USER, 3600),
    "stream": ({}, {}, {"user_id": USER_ID}, 3600),
    "freshchat": ({}, FRESHCHAT_USER, {"reference_id": USER_ID} | FRESHCHAT_USER, 3600),
    "kustomer": ({}, {}, {"externalId": USER_ID}, 900),
}


def mint(service, profile, claims):
    return service.mint("/hs256-token", sub=USER_ID, profile=f"hs256.{profile}", claims=claims)


def read(token, secret):
    """The header and the claims of a token that PyJWT has verified."""
    return jwt.get_unverified_header(token), jwt.decode(token, secret, ["HS256"])


def members(token):
    """The text of each member of the payload. No value has a comma."""
    payload = jwt.utils.base64url_decode(token.split(".")[1]).decode()
    return sorted(payload.removeprefix("{").removesuffix("}").split(","))


@pytest.mark.parametrize("profile", PRODUCTS)
def test_it_is_the_token_that_pyjwt_makes_with_the_claims_of_the_product(service, deployment, profile):
    header, asked, claims, ttl = PRODUCTS[profile]
    secret = deployment.hs256_secrets[profile]
    answer = mint(service, profile, asked)
    times = {"iat": answer["issued_at"], "exp": answer["expires_at"]}
    reference = jwt.encode(claims | times, secret, "HS256", headers=header)
    ours = read(answer["token"], secret)
    assert ours == read(reference, secret)
    assert ours[0] == {"alg": "HS256", "typ": "JWT"} | header
    assert answer["kid"] == header.get("kid")
    assert_fresh(ours[1], ttl)


def test_its_claims_are_those_of_stream_chat_byte_for_byte(service, deployment):
    secret = deployment.hs256_secrets["stream"]
    answer = mint(service, "stream", {})
    theirs = stream_chat(secret, USER_ID, str(answer["expires_at"]), str(answer["issued_at"]))
    assert read(answer["token"], secret) == read(theirs, secret)
    assert members(answer["token"]) == members(theirs)


@pytest.mark.parametrize("profile", PRODUCTS)
def test_ruby_jwt_accepts_it_until_it_is_tampered_with(service, deployment, profile):
    _, asked, claims, _ = PRODUCTS[profile]
    secret = deployment.hs256_secrets[profile]
    token = mint(service, profile, asked)["token"]
    user = next(name for name, value in claims.items() if value == USER_ID)
    read_by_ruby = ruby_jwt_with_secret(token, secret, user)
    assert {name: read_by_ruby[name] for name in claims} == claims
    with pytest.raises(Refused):
        ruby_jwt_with_secret(tampered(token, **{user: "4712"}), secret, user)
    with pytest.raises(Refused):
        ruby_jwt_with_secret(token, deployment.intercom_secret, user)
