"""Identity tokens: verified by four libraries in three languages, through each address of the key set."""

import jwt
import pytest
from service import IDENTITY_AUDIENCE, ISSUER, ISSUER_512, KIDS
from verifiers import BY_JWKS_URL, Refused, assert_fresh, tampered

# Not ASCII: such a subject breaks a signer that counts characters and a verifier that counts bytes.
SUB = "user-Ünïcødé-4711"
PROFILES = {
    "RS256": {"profile": "identity.web", "issuer": ISSUER, "keyset": "web", "ttl": 3600},
    "RS512": {"profile": "identity.web512", "issuer": ISSUER_512, "keyset": "web512", "ttl": 600},
}


@pytest.fixture(scope="module")
def minted(service):
    """One answer for each algorithm."""
    return {
        alg: service.mint("/identity-token", sub=SUB, profile=recipe["profile"]) for alg, recipe in PROFILES.items()
    }


@pytest.fixture(params=PROFILES)
def alg(request):
    return request.param


@pytest.fixture(params=BY_JWKS_URL, ids=lambda verify: verify.__name__)
def verify(request):
    return request.param


@pytest.mark.parametrize("address", ["keyset", "union"])
def test_every_library_accepts_it(service, minted, verify, alg, address):
    recipe = PROFILES[alg]
    url = service.jwks_url(recipe["keyset"] if address == "keyset" else None)
    claims = verify(url, minted[alg]["token"], alg, recipe["issuer"], SUB)
    assert claims["iss"] == recipe["issuer"]
    assert claims["sub"] == SUB
    assert_fresh(claims, recipe["ttl"])


def test_every_library_refuses_it_once_tampered_with(service, minted, verify, alg):
    recipe = PROFILES[alg]
    forged = tampered(minted[alg]["token"], sub="someone-else")
    with pytest.raises(Refused):
        verify(service.jwks_url(recipe["keyset"]), forged, alg, recipe["issuer"], "someone-else")


def test_every_library_refuses_it_with_the_keys_of_another_keyset(service, minted, verify):
    with pytest.raises(Refused):
        verify(service.jwks_url("web512"), minted["RS256"]["token"], "RS256", ISSUER, SUB)


def test_the_header_is_alg_typ_and_kid_and_no_more(service, minted, alg):
    keyset = PROFILES[alg]["keyset"]
    (jwk,) = service.jwks(keyset)
    assert jwt.get_unverified_header(minted[alg]["token"]) == {"alg": alg, "typ": "JWT", "kid": KIDS[keyset]}
    assert jwk["kid"] == minted[alg]["kid"] == KIDS[keyset]


def test_the_claims_are_the_configured_ones_and_no_more(minted):
    claims = {alg: jwt.decode(minted[alg]["token"], options={"verify_signature": False}) for alg in PROFILES}
    assert claims["RS256"].keys() == {"iss", "sub", "aud", "exp", "iat"}
    assert claims["RS256"]["aud"] == IDENTITY_AUDIENCE
    assert claims["RS512"].keys() == {"iss", "sub", "exp", "iat"}, "no audience is configured, so none is claimed"


def test_the_answer_tells_the_times_that_the_token_has(minted, alg):
    answer = minted[alg]
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert answer["token_type"] == "JWT"
    assert (answer["issued_at"], answer["expires_at"]) == (claims["iat"], claims["exp"])
    assert answer["issued_at"] + answer["expires_in"] == answer["expires_at"]
    assert answer["issued_at"] < answer["renew_at"] < answer["expires_at"]


def test_a_shorter_life_and_an_allowed_claim_are_signed_as_asked(service, verify):
    answer = service.mint("/identity-token", sub=SUB, profile="identity.web", ttl=60, claims={"locale": "de-CH"})
    claims = verify(service.jwks_url("web"), answer["token"], "RS256", ISSUER, SUB)
    assert_fresh(claims, 60)
    assert claims["locale"] == "de-CH"


def test_asked_for_as_jwt_the_answer_is_the_bare_token(service, verify):
    body = {"sub": SUB, "profile": "identity.web"}
    answer = service.post("/identity-token", body, headers={"Accept": "application/jwt"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].partition(";")[0] == "application/jwt"
    assert verify(service.jwks_url("web"), answer.text, "RS256", ISSUER, SUB)["sub"] == SUB


def test_no_cache_on_the_way_may_keep_it(service):
    answer = service.post("/identity-token", {"sub": SUB, "profile": "identity.web"})
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Pragma"] == "no-cache"
    assert "ETag" not in answer.headers
