"""Judges sets of keys, certificates, JWKs and tokens strictly, with PyJWT, joserfc, cryptography, and OpenSSL through `ssl`.

Reads one set a line from standard input, as JSON, and writes one verdict a line:

    {"accepted": null}     every judge accepts it
    {"refused": "why"}     a verifier refuses the token, or two things of the set contradict each other
    {"unfit": "why"}       a verifier accepts the token; an upload form refuses the certificate
    {"error": "where"}     the judge itself failed: a fault of this file, and no verdict

A set has `purpose` (identity, assertion, intercom) and `token`, and some of `jwk`, `certificate`, `key`, `configuration`, each
as text. `kid`, `issuer` and `secret` are what the relying party was told; `public` has the public keys by the file of the
private one.
"""

import base64
import datetime
import functools
import hashlib
import itertools
import json
import os
import re
import ssl
import sys
import tempfile
import tomllib
import traceback
import urllib.parse
import warnings

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jwt as jose
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

NOW = datetime.datetime.now(datetime.timezone.utc)
TEN_DAYS = datetime.timedelta(days=10)
# A clock may be three minutes off, and no more.
LEEWAY = 180
SHARED = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Refused(Exception):
    pass


class Unfit(Exception):
    pass


# How the libraries refuse. Whatever else is raised is a fault of this file.
REFUSALS = (
    Refused,
    ValueError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    jwt.PyJWTError,
    JoseError,
    ssl.SSLError,
)


def require(holds, why):
    if not holds:
        raise Refused(why)


def distinct(pairs):
    members = dict(pairs)
    require(len(members) == len(pairs), "a member stands twice")
    return members


def read_object(text):
    value = json.loads(text, object_pairs_hook=distinct)
    require(isinstance(value, dict), "no object")
    return value


def require_texts(value, names):
    for name in names:
        require(isinstance(value.get(name, ""), str), f"{name} isn't text")


def numbers_of(public):
    """The numbers of a public key that is RSA and strong enough."""
    require(isinstance(public, RSAPublicKey), "no RSA key")
    numbers = public.public_numbers()
    require(numbers.n.bit_length() >= 2048, "a short key")
    # FIPS 186-5, section 5.1: 2^16 < e.
    require(numbers.e >= 65537, "a small exponent")
    return numbers


@functools.lru_cache(maxsize=32)
def certificate(der):
    """Read by two parsers, valid now, and signed by its own key if it says so."""
    read = x509.load_der_x509_certificate(der)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    require(read.not_valid_before_utc <= NOW, "the certificate isn't valid yet")
    require(read.not_valid_after_utc >= NOW, "the certificate has expired")
    numbers = numbers_of(read.public_key())
    # One that became another authority's, whose key nobody has, is beyond any verifier; but not where its own key has made the
    # signature.
    if read.issuer == read.subject or made_by(numbers, read.signature):
        read.verify_directly_issued_by(read)
    return read


def made_by(numbers, signature):
    number = int.from_bytes(signature)
    if number >= numbers.n:
        return False
    opened = pow(number, numbers.e, numbers.n)
    return opened.to_bytes((numbers.n.bit_length() + 7) // 8).startswith(b"\x00\x01\xff\xff")


def chain(ders):
    """The numbers of the first certificate's key. Each certificate is signed by the key of the one behind it."""
    require(ders, "no certificate")
    read = [certificate(der) for der in ders]
    for one, issuer in itertools.pairwise(read):
        one.verify_directly_issued_by(issuer)
    return read[0].public_key().public_numbers(), min(one.not_valid_after_utc for one in read)


def chain_of_pem(text):
    read = x509.load_pem_x509_certificates(text.encode())
    return chain([one.public_bytes(serialization.Encoding.DER) for one in read])


def judge_jwk(text, kid):
    """The public key of a JWK; everything in it must be of that key."""
    jwk = read_object(text)
    require_texts(jwk, ["kty", "kid", "alg", "use", "n", "e", "x5t", "x5t#S256"])
    require(jwk.get("kid") == kid, "another key id")
    require(jwk.get("alg") in ("RS256", "RS512") and jwk.get("kty") == "RSA", "another kind of key")
    operations = jwk.get("key_ops", ["verify"])
    require(isinstance(operations, list) and "verify" in operations, "not for verifying")
    require(jwk.get("use", "sig") == "sig", "not for signatures")
    entries = jwk.get("x5c")
    require(isinstance(entries, list) and all(isinstance(entry, str) for entry in entries), "no x5c")
    for name in ("n", "e"):
        require(name in jwk, f"no {name}")
        octets = base64.urlsafe_b64decode(jwk[name] + "==")
        canonical = base64.urlsafe_b64encode(octets).decode().rstrip("=")
        require(canonical == jwk[name] and octets and octets[0] != 0, f"{name} isn't minimal base64url")
    numbers = numbers_of(jwt.PyJWK(jwk).key)
    RSAKey.import_key(jwk)
    ders = [base64.b64decode(entry, validate=True) for entry in entries]
    require([base64.b64encode(der).decode() for der in ders] == entries, "x5c isn't base64")
    certified, until = chain(ders)
    require(certified == numbers, "x5c of another key")
    for name, digest in (("x5t", hashlib.sha1), ("x5t#S256", hashlib.sha256)):
        thumbprint = base64.urlsafe_b64encode(digest(ders[0]).digest()).decode().rstrip("=")
        require(jwk.get(name, thumbprint) == thumbprint, f"{name} of another certificate")
    return jwk, numbers, until


@functools.lru_cache(maxsize=8)
def public_half(key):
    """OpenSSL checks the numbers of a private key, which takes a tenth of a second."""
    return numbers_of(serialization.load_pem_private_key(key.encode(), None).public_key())


def judge_pair(key, certificates):
    """OpenSSL loads both and compares them."""
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        for name, text in (("key", key), ("certificate", certificates)):
            with open(os.path.join(folder, name), "w", newline="") as file:
                file.write(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(folder, "certificate"), os.path.join(folder, "key"), password="")


def parts(token):
    """Header and claims, in which no member stands twice, each text is one, and each time is a number."""
    texts = token.split(".")
    require(len(texts) == 3, "no three parts")
    header, claims = (read_object(base64.urlsafe_b64decode(text + "==")) for text in texts[:2])
    require_texts(header, ["alg", "typ", "kid"])
    # RFC 7515, section 4.1.11: nobody here knows an extension.
    require("crit" not in header, "a critical extension")
    require_texts(claims, ["iss", "sub", "jti"])
    for name in ("exp", "iat", "nbf"):
        time = claims.get(name, 0)
        require(isinstance(time, (int, float)) and not isinstance(time, bool), f"{name} is no number")
    return header, claims


def judge_identity(token, key, algorithm, kid, issuer):
    header, _ = parts(token)
    require(header.get("kid") == kid, "another key id in the token")
    require(header.get("alg") == algorithm, "another algorithm")
    options = {"require": ["exp", "iss", "sub"], "verify_aud": False}
    claims = jwt.decode(token, key, [algorithm], issuer=issuer, leeway=LEEWAY, options=options)
    require(isinstance(claims["sub"], str) and claims["sub"], "nobody")


def judge_assertion(token, key, consumer_key):
    """RFC 7523, section 3, as Salesforce's JWT bearer flow has it. Its `sub` is a user name, which has the form of an address."""
    parts(token)
    options = {"require": ["exp", "iss", "sub", "aud"], "verify_aud": False}
    claims = jwt.decode(token, key, ["RS256"], issuer=consumer_key, leeway=LEEWAY, options=options)
    require_texts(claims, ["iss", "sub", "aud"])
    require(claims["iss"] and "@" in claims["sub"], "no app, or no user")
    host = urllib.parse.urlsplit(claims["aud"]).hostname
    require(host and claims["aud"] == f"https://{host}", "no host as its audience")


def judge_intercom(token, secret):
    parts(token)
    claims = jwt.decode(token, secret, ["HS256"], options={"require": ["user_id"]}, leeway=LEEWAY)
    require(isinstance(claims["user_id"], str) and claims["user_id"], "nobody")


def judge_by_jose(token, jwk, required):
    # Members of a header that nobody knows are ignored (RFC 7515, section 4).
    registry = JWSRegistry(algorithms=[jwk["alg"]], strict_check_header=False)
    claims = jose.decode(token, RSAKey.import_key(jwk), registry=registry).claims
    essential = {name: {"essential": True} for name in required}
    jose.JWTClaimsRegistry(leeway=LEEWAY, **essential).validate(claims)


def table(value, *names):
    """The table of that name in a configuration, and in that."""
    for name in names:
        value = value.get(name)
        require(isinstance(value, dict), f"no table {name}")
    return value


def judge_configuration(given):
    """Whether a relying party that is set up by the configuration accepts the token."""
    # Two escapes that TOML 1.1 has, and tomllib doesn't know.
    read = tomllib.loads(re.sub(r"\\e|\\x[0-9A-Fa-f]{2}", "?", given["configuration"]))
    token, kid = given["token"], given["kid"]
    if given["purpose"] == "intercom":
        judge_intercom(token, given["secret"])
        return
    kind = {"identity": "identity", "assertion": "oauth"}[given["purpose"]]
    for name in table(read, kind):
        profile = table(read, kind, name)
        folder = table(read, "keysets", str(profile.get("keyset"))).get("directory")
        public = given["public"].get(f"{folder}/{kid}.key")
        if kind == "oauth" and public and profile.get("consumer_key") == given["issuer"]:
            judge_assertion(token, public, given["issuer"])
            return
        if kind == "identity" and public and profile.get("issuer") == given["issuer"]:
            judge_identity(token, public, profile.get("algorithm", "RS256"), kid, given["issuer"])
            return
    raise Refused("no profile has that issuer and that key")


def judge(given):
    token, kid, issuer, purpose = given["token"], given["kid"], given["issuer"], given["purpose"]
    if "configuration" in given:
        judge_configuration(given)
        return
    parts(token)
    keys, untils, algorithm = [], [], "RS256"
    if "jwk" in given:
        jwk, numbers, until = judge_jwk(given["jwk"], kid)
        algorithm = jwk["alg"]
        keys.append(numbers)
        untils.append(until)
        judge_by_jose(token, jwk, ["exp", "iss", "sub"])
    if "key" in given:
        keys.append(public_half(given["key"]))
    if "certificate" in given:
        numbers, until = chain_of_pem(given["certificate"])
        keys.append(numbers)
        untils.append(until)
    require(all(numbers == keys[0] for numbers in keys), "one thing of another key than the other")
    if "key" in given and "certificate" in given:
        judge_pair(given["key"], given["certificate"])
    public = keys[0].public_key()
    if purpose == "assertion":
        judge_assertion(token, public, None)
    else:
        judge_identity(token, public, algorithm, kid, issuer)
    if any(until < NOW + TEN_DAYS for until in untils):
        raise Unfit("a certificate has fewer than ten days left")


def verdict(line):
    try:
        judge(json.loads(line))
    except Unfit as why:
        return {"unfit": str(why)}
    except REFUSALS as why:
        return {"refused": f"{type(why).__name__}: {why}"}
    except Exception:
        return {"error": traceback.format_exc()}
    return {"accepted": None}


def main():
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(verdict(line)))


if __name__ == "__main__":
    main()
