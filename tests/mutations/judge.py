"""Judges mutated sets as strict verifiers of other libraries do: PyJWT, joserfc, cryptography, and OpenSSL through `ssl`.

Reads one set a line from standard input and writes for each why it is refused, or null. A set has `jwk`, `token` and, where
they belong to it, `certificate`, `key` and `configuration`, as text, and what the relying party was told: `issuer`, `kid`.
"""

import base64
import datetime
import functools
import hashlib
import json
import os
import ssl
import sys
import tempfile
import tomllib

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from joserfc import jwt as jose
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

NOW = datetime.datetime.now(datetime.timezone.utc)
TEN_DAYS = datetime.timedelta(days=10)
# A clock may be three minutes off, and no more.
LEEWAY = 180


class Refused(Exception):
    pass


def require(holds, why):
    if not holds:
        raise Refused(why)


def distinct(pairs):
    members = dict(pairs)
    require(len(members) == len(pairs), "a member stands twice")
    return members


def certificate(der):
    """Read by two parsers, valid for ten days more, and signed by whom it names."""
    read = x509.load_der_x509_certificate(der)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    require(read.not_valid_before_utc <= NOW, "the certificate isn't valid yet")
    require(read.not_valid_after_utc >= NOW + TEN_DAYS, "the certificate has fewer than ten days left")
    # The healthy ones are self-signed. One that became another authority's, whose key nobody has, is beyond any verifier; but
    # not where its own key has made the signature.
    if read.issuer == read.subject or made_by_own_key(read):
        read.verify_directly_issued_by(read)
    return read


def made_by_own_key(read):
    numbers = read.public_key().public_numbers()
    opened = pow(int.from_bytes(read.signature), numbers.e, numbers.n)
    return opened.to_bytes((numbers.n.bit_length() + 7) // 8).startswith(b"\x00\x01\xff\xff")


def judge_jwk(text, kid):
    """The public key of a JWK; everything in it must be of that key."""
    jwk = json.loads(text, object_pairs_hook=distinct)
    require(isinstance(jwk, dict), "no object")
    require(jwk.get("kid") == kid, "another key id")
    require(jwk.get("alg") in ("RS256", "RS512") and jwk.get("kty") == "RSA", "another kind of key")
    require(jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", ["verify"]), "not for signatures")
    key = jwt.PyJWK(jwk)
    RSAKey.import_key(jwk)
    numbers = key.key.public_numbers()
    require(numbers.n.bit_length() >= 2048, "a short key")
    for name in ("n", "e"):
        octets = base64.urlsafe_b64decode(jwk[name] + "==")
        canonical = base64.urlsafe_b64encode(octets).decode().rstrip("=")
        require(canonical == jwk[name] and octets[0] != 0, f"{name} isn't minimal base64url")
    chain = jwk.get("x5c")
    require(isinstance(chain, list) and chain, "no x5c")
    ders = [base64.b64decode(entry, validate=True) for entry in chain]
    require([base64.b64encode(der).decode() for der in ders] == chain, "x5c isn't base64")
    certificates = [certificate(der) for der in ders]
    require(certificates[0].public_key().public_numbers() == numbers, "a certificate of another key")
    for name, digest in (("x5t", hashlib.sha1), ("x5t#S256", hashlib.sha256)):
        thumbprint = base64.urlsafe_b64encode(digest(ders[0]).digest()).decode().rstrip("=")
        require(jwk.get(name, thumbprint) == thumbprint, f"{name} of another certificate")
    return key, jwk


def judge_token(token, key, algorithm, kid, issuer):
    header = jwt.get_unverified_header(token)
    require(header.get("kid") == kid, "another key id in the token")
    require(header.get("alg") == algorithm, "another algorithm")
    options = {"require": ["exp", "iss", "sub"], "verify_aud": False}
    claims = jwt.decode(token, key, [algorithm], issuer=issuer, leeway=LEEWAY, options=options)
    require(isinstance(claims["sub"], str) and claims["sub"], "nobody")
    return claims


def judge_by_jose(token, jwk, algorithm):
    # Members of a header that nobody knows are ignored (RFC 7515, section 4).
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    claims = jose.decode(token, RSAKey.import_key(jwk), registry=registry).claims
    jose.JWTClaimsRegistry(exp={"essential": True}, iss={"essential": True}, sub={"essential": True}, leeway=LEEWAY).validate(claims)


def judge_intercom(token, secret):
    claims = jwt.decode(token, secret, ["HS256"], options={"require": ["user_id"]}, leeway=LEEWAY)
    require(isinstance(claims["user_id"], str) and claims["user_id"], "nobody")


@functools.lru_cache(maxsize=2)
def public_half(key):
    """OpenSSL checks the numbers of a private key, which takes a tenth of a second."""
    read = serialization.load_pem_private_key(key.encode(), None)
    require(read.key_size >= 2048, "a short key")
    return read.public_key()


def judge_pair(key, certificate_text):
    """OpenSSL loads both and compares them."""
    public = public_half(key)
    certificates = x509.load_pem_x509_certificates(certificate_text.encode())
    ders = [one.public_bytes(serialization.Encoding.DER) for one in certificates]
    first = [certificate(der) for der in ders][0]
    require(first.public_key().public_numbers() == public.public_numbers(), "a certificate of another key")
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        for name, text in (("key", key), ("certificate", certificate_text)):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(folder, "certificate"), os.path.join(folder, "key"), password="")
    return first


def judge_configuration(text, token, keys):
    """Whether a relying party that is set up by the configuration takes the token."""
    read = tomllib.loads(text)
    issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
    kid = jwt.get_unverified_header(token)["kid"]
    for profile in read["identity"].values():
        folder = read["keysets"][profile["keyset"]]["directory"]
        public = keys.get(f"{folder}/{kid}.key")
        if profile["issuer"] == issuer and public:
            judge_token(token, public, profile.get("algorithm", "RS256"), kid, issuer)
            return
    raise Refused("no profile has that issuer and that key")


def judge(given):
    kid, issuer = given["kid"], given["issuer"]
    if "secret" in given:
        judge_intercom(given["token"], given["secret"])
        return
    if "configuration" in given:
        judge_configuration(given["configuration"], given["token"], given["public"])
        return
    if "jwk" in given:
        key, jwk = judge_jwk(given["jwk"], kid)
        judge_token(given["token"], key, jwk["alg"], kid, issuer)
        judge_by_jose(given["token"], jwk, jwk["alg"])
    if "key" in given:
        first = judge_pair(given["key"], given["certificate"])
        judge_token(given["token"], first.public_key(), "RS256", kid, issuer)
    elif "certificate" in given:
        first = [certificate(one.public_bytes(serialization.Encoding.DER))
                 for one in x509.load_pem_x509_certificates(given["certificate"].encode())][0]
        require(first.public_key().public_numbers() == key.key.public_numbers(), "a certificate of another key")


SHARED = "/dev/shm" if os.path.isdir("/dev/shm") else None


def main():
    for line in sys.stdin:
        try:
            judge(json.loads(line))
            why = None
        except Exception as no:  # Whatever stops a verifier is its no.
            why = f"{type(no).__name__}: {no}"
        print(json.dumps(why))


if __name__ == "__main__":
    main()
