"""The published keys: what stands in each JWK, and that nothing stands there which must not."""

import base64
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from service import KIDS

PUBLISHED = {"kty", "use", "alg", "kid", "n", "e", "x5c", "x5t#S256"}
# RFC 7518, 6.3.2 and 6.4.1. Named one by one, so that a failure says that a private key is out.
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
ALGORITHMS = {"web": "RS256", "web512": "RS512", "crm": "RS256"}


@pytest.fixture(params=KIDS)
def keyset(request):
    return request.param


@pytest.fixture
def jwk(service, keyset):
    (only,) = service.jwks(keyset)
    return only


def test_no_private_member_is_published(service, jwk):
    assert not PRIVATE & jwk.keys()
    for each in service.jwks():
        assert not PRIVATE & each.keys()


def test_the_members_are_those_of_the_contract(jwk, keyset):
    assert jwk.keys() == PUBLISHED
    assert (jwk["kty"], jwk["use"]) == ("RSA", "sig")
    assert (jwk["kid"], jwk["alg"]) == (KIDS[keyset], ALGORITHMS[keyset])


@pytest.mark.parametrize("member", ["n", "e"])
def test_numbers_are_canonical_base64url_with_no_leading_zero(jwk, member):
    written = jwk[member]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", written), "base64url without padding"
    octets = base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))
    # Encoded once more: spare bits in the last character would be lost, so they show.
    assert base64.urlsafe_b64encode(octets).rstrip(b"=").decode() == written
    assert octets[0] != 0, "RFC 7518, 6.3.1.1: no more octets than the number needs"


def test_cryptography_takes_the_numbers_for_a_key_of_2048_bits(jwk):
    n, e = (
        int.from_bytes(base64.urlsafe_b64decode(jwk[member] + "=" * (-len(jwk[member]) % 4))) for member in ("n", "e")
    )
    assert rsa.RSAPublicNumbers(e, n).public_key().key_size == 2048
    assert e == 65537


def test_the_union_holds_the_keys_of_all_keysets_and_each_once(service):
    def in_order(keys):
        return sorted(keys, key=lambda jwk: jwk["kid"])

    assert in_order(service.jwks()) == in_order(jwk for keyset in KIDS for jwk in service.jwks(keyset))
