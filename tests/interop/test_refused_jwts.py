"""Bad JWTs, made part by part: tokenmint refuses each, as a subject token and as a credential, and says by which rule.

PyJWT and joserfc (of Authlib's author) judge the same tokens by the same rules. If a library accepts a token that tokenmint
refuses, the case names it and says why, and the test fails once that isn't so any more.
"""

import base64
import dataclasses
import json
import re
import time
from collections.abc import Callable

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from issuers import AUDIENCE, Key, as_bytes, base64url, compact, without_id
from joserfc import jwe, jws
from joserfc import jwt as joserfc_jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey, import_key
from service import ISSUER as MINTED_ISSUER
from service import Deployment
from verifiers import pyjwt

ISSUER = "https://login.acme.example/realms/customers"
SUB = "user-4711"
PATH = "/identity-token"

RSA, EC = Key("rsa-1"), Key("ec-1", "ES256")
# Not in the JWKS. An attacker can call a key as he likes.
OTHER, OTHER_EC = Key("rsa-1"), Key("ec-1", "ES256")
ED25519 = ed25519.Ed25519PrivateKey.generate()
JWKS = {"keys": [RSA.jwk(), EC.jwk()]}

# Why a library accepts what tokenmint refuses.
NO_TYPE = "it looks at no `typ`"
INT = "it reads the claim with Python's int()"
LAST_MEMBER = "Python's json takes the last of two members with the same name"
BOM = "Python's json skips a byte order mark"
PADDING = "it ignores padding"
NO_LENGTH = "it has no limit"
CONTENT = "it leaves it to the application what a subject looks like"

# The words of each rule.
LONG = "has more than 16 KiB"
FORM = "isn't a signed JWT in compact form: three parts in base64url without padding, separated by dots"
HEADER = "has a header that isn't a JSON object, or that has a member twice"
PAYLOAD = "has a payload that isn't a JSON object, or that has a member twice"
TYPE = "is of another type than JWT (`typ`)"
CRIT = "has critical extensions (`crit`), and tokenmint supports none"
ALG = "has a signature algorithm (`alg`) that isn't one of the issuer's `algorithms`, or isn't its key's"
KID = "has a `kid` that isn't a string"
UNKNOWN = "names a key (`kid`) that isn't one of the issuer's"
SIGNATURE = "has a wrong signature"
ISS = "is of another issuer (`iss`)"
AUD = "isn't for an `audience` of the configuration (`aud`)"
NO_EXP = "has no `exp` that is a number"
EXP = "has expired (`exp`)"
NBF = "isn't valid yet, or its `nbf` isn't a number"
IAT = "was issued in the future, or its `iat` isn't a number"
SUBJECT = "has no string in the claim that names the subject (`subject_claim` of the caller)"
NOT_A_SUBJECT = "names a subject that "
RULES = {
    LONG: "length", FORM: "form", HEADER: "header", PAYLOAD: "payload", TYPE: "typ", CRIT: "crit", ALG: "alg",
    KID: "kid", UNKNOWN: "kid", SIGNATURE: "signature", ISS: "iss", AUD: "aud", NO_EXP: "exp", EXP: "exp", NBF: "nbf", IAT: "iat", SUBJECT: "jwt_claims",
    NOT_A_SUBJECT: "jwt_claims",
}  # fmt: skip


def claims(**changes):
    """Those of a good token, but for the changes. A change to `ABSENT` leaves the claim out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUB, "iat": now, "exp": now + 300}
    return {name: value for name, value in (good | changes).items() if value is not ABSENT}


def header(key=RSA, **changes):
    good = {"alg": key.alg, "typ": "JWT", "kid": key.kid}
    return {name: value for name, value in (good | changes).items() if value is not ABSENT}


ABSENT = object()


def token(head=None, payload=None, key=RSA, sign=None):
    return compact(header(key) if head is None else head, claims() if payload is None else payload, sign or key.sign)


def parts(text=None):
    return (text or token()).split(".")


def hs256(secret):
    def sign(signed):
        mac = hmac.HMAC(secret, hashes.SHA256())
        mac.update(signed)
        return mac.finalize()

    return sign


def der_signature(signed):
    return EC.private.sign(signed, ec.ECDSA(hashes.SHA256()))


def pss(signed):
    return RSA.private.sign(signed, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def twice(part, name, value):
    """JSON with one more member of a name that it has already."""
    return as_bytes(part)[:-1] + f',"{name}":{json.dumps(value)}}}'.encode()


def with_raw(name, value):
    """Claims with a value that isn't Python's: it is written as it is."""
    return as_bytes(claims(**{name: "RAW"})).replace(b'"RAW"', value)


def encrypted(inner=None, alg="RSA-OAEP", **more):
    """A JWE of five parts, for the issuer's own key."""
    pem = RSA.public(serialization.Encoding.PEM)
    head = {"alg": alg, "enc": "A256GCM", "kid": RSA.kid} | more
    return jwe.encrypt_compact(head, inner or as_bytes(claims()), RSAKey.import_key(pem))


def noncanonical(text):
    """The same text with a last character whose unused bits aren't zero: other decoders read the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4, "it has no unused bits"
    changed = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert base64.urlsafe_b64decode(changed + "==") == base64.urlsafe_b64decode(text + "==")
    return changed


def resigned(head, payload, key=RSA):
    """Two encoded parts, signed as they are."""
    return f"{head}.{payload}.{base64url(key.sign(f'{head}.{payload}'.encode()))}"


def padded(data):
    """base64url with padding. Spaces are added to JSON until there is some."""
    while len(data) % 3 == 0:
        data += b" "
    return base64.urlsafe_b64encode(data).decode()


def in_base64(payload):
    text = base64.b64encode(as_bytes(payload)).decode()
    assert {"+", "/"} & set(text), "it is base64url too"
    return text


def flipped(signature):
    first = "B" if signature[0] == "A" else "A"
    return first + signature[1:]


def unencoded_payload():
    """RFC 7797: `b64` is false, and the payload isn't encoded."""
    head = base64url(as_bytes(header(b64=False, crit=["b64"])))
    payload = as_bytes(claims()).decode()
    return f"{head}.{payload}.{base64url(RSA.sign(f'{head}.{payload}'.encode()))}"


@dataclasses.dataclass
class Case:
    name: str
    words: str
    make: Callable[[], str]
    # library -> why it accepts the token.
    accepted_by: dict


CASES = []
# joserfc compares whole seconds, so its verdict depends on the time of day.
UNDECIDED = "undecided"


def case(name, words, make, **accepted_by):
    CASES.append(Case(name, words, make, accepted_by))


def with_header(name, words, **changes):
    accepted_by = changes.pop("accepted_by", {})
    case(name, words, lambda: token(header(**changes)), **accepted_by)


def with_claims(name, words, **changes):
    accepted_by = changes.pop("accepted_by", {})
    case(name, words, lambda: token(payload=claims(**changes)), **accepted_by)


def both(why):
    return {"pyjwt": why, "joserfc": why}


# Algorithms.
for none in ("none", "None", "NONE", "nOnE", ""):
    case(f"alg {none!r} without a signature", ALG, lambda none=none: token(header(alg=none), sign=lambda _: b""))
    with_header(f"alg {none!r} with the signature of RS256", ALG, alg=none)
case("alg none without kid", ALG, lambda: token({"alg": "none"}, sign=lambda _: b""))
SECRETS = {
    "the public key in PEM": RSA.public(serialization.Encoding.PEM),
    "the public key in PEM, without its last newline": RSA.public(serialization.Encoding.PEM).strip(),
    "the public key in DER": RSA.public(serialization.Encoding.DER),
    "the modulus": base64.urlsafe_b64decode(RSA.jwk()["n"] + "=="),
    "the modulus in base64url": RSA.jwk()["n"].encode(),
    "the JWK": as_bytes(RSA.jwk()),
    "the JWKS": as_bytes(JWKS),
    "the point of the EC key": base64.urlsafe_b64decode(EC.jwk()["x"] + "=") + base64.urlsafe_b64decode(EC.jwk()["y"] + "="),
    "nothing": b"",
}
for name, secret in SECRETS.items():
    case(f"HS256 with {name} as the secret", ALG, lambda secret=secret: token(header(alg="HS256"), sign=hs256(secret)))
    case(f"HS256 with {name}, no kid", ALG, lambda secret=secret: token({"alg": "HS256"}, sign=hs256(secret)))
for alg in (
    "RS384", "RS512", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "HS384", "RS1", "rs256", "RS256 ", "RSA-OAEP", "dir",
):  # fmt: skip
    with_header(f"alg {alg!r}, which isn't configured", ALG, alg=alg)
case("RS384, signed so", ALG, lambda: token(header(alg="RS384"), sign=lambda signed: RSA.sign(signed, hashes.SHA384())))
case("PS256, signed so", ALG, lambda: token(header(alg="PS256"), sign=pss))
case("PS256's signature as RS256", SIGNATURE, lambda: token(sign=pss))
case("SHA-512 as RS256", SIGNATURE, lambda: token(sign=lambda signed: RSA.sign(signed, hashes.SHA512())))
case("EdDSA, with the attacker's key", ALG, lambda: token(header(alg="EdDSA", kid=ABSENT), sign=ED25519.sign))
case("ES256 for the kid of the RSA key", ALG, lambda: token(header(alg="ES256"), sign=EC.sign))
case("RS256 for the kid of the EC key", ALG, lambda: token(header(kid=EC.kid)))
for value in (None, 1, True, ["RS256"], {"RS256": 1}):
    with_header(f"alg {value!r}", ALG, alg=value)
with_header("no alg", ALG, alg=ABSENT)

# Signatures.
case("another key under the same kid", SIGNATURE, lambda: token(key=OTHER))
case("another EC key under the same kid", SIGNATURE, lambda: token(key=OTHER_EC))
case("another key, no kid", SIGNATURE, lambda: token(header(kid=ABSENT), key=OTHER))
case("another key in the header's jwk", SIGNATURE, lambda: token(header(jwk=OTHER.jwk()), key=OTHER))
case("another key in the header's jwk, no kid", SIGNATURE, lambda: token(header(jwk=OTHER.jwk(), kid=ABSENT), key=OTHER))
case("jku of another host", SIGNATURE, lambda: token(header(jku="https://evil.example/jwks.json"), key=OTHER))
case("x5u of another host", SIGNATURE, lambda: token(header(x5u="https://evil.example/x509.pem"), key=OTHER))
case("x5c of nobody", SIGNATURE, lambda: token(header(x5c=["MIIB"]), key=OTHER))
case("no signature", SIGNATURE, lambda: token(sign=lambda _: b""))
case("one byte as the signature", SIGNATURE, lambda: token(sign=lambda _: b"\x01"))
case("half a signature", SIGNATURE, lambda: token(sign=lambda signed: RSA.sign(signed)[:128]))
case("a signature and one byte more", SIGNATURE, lambda: token(sign=lambda signed: RSA.sign(signed) + b"\0"))
case("a signature of zeros", SIGNATURE, lambda: token(sign=lambda _: bytes(256)))
case("an EC signature of zeros", SIGNATURE, lambda: token(key=EC, sign=lambda _: bytes(64)))
case("an EC signature in DER", SIGNATURE, lambda: token(key=EC, sign=der_signature))
case("half an EC signature", SIGNATURE, lambda: token(key=EC, sign=lambda signed: EC.sign(signed)[:32]))
case("an EC signature with r and s swapped", SIGNATURE, lambda: token(key=EC, sign=lambda s: EC.sign(s)[32:] + bytes(32)))
case("one changed character in the signature", SIGNATURE, lambda: ".".join([*parts()[:2], flipped(parts()[2])]))
case("the signature of another token", SIGNATURE, lambda: ".".join([*parts()[:2], parts(token(payload=claims(jti="1")))[2]]))
case("a changed payload", SIGNATURE, lambda: ".".join([parts()[0], base64url(as_bytes(claims(sub="admin"))), parts()[2]]))
case("a changed header", SIGNATURE, lambda: ".".join([base64url(as_bytes(header(typ=ABSENT))), *parts()[1:]]))

# Key IDs.
for value in (1, None, True, ["rsa-1"], {"kid": "rsa-1"}, 1.5):
    with_header(f"kid {value!r}", KID, kid=value)
for value in ("", "rsa-2", "RSA-1", "rsa-1 ", "../../dev/null", "' OR '1'='1", "rsa-1\0"):
    with_header(f"kid {value!r}", UNKNOWN, kid=value)

# Types and extensions.
for value in ("logout+jwt", "application/logout+jwt", "secevent+jwt", "dpop+jwt", "kb+jwt", "JWE", "", "jwt2", "text/jwt"):
    with_header(f"typ {value!r}", TYPE, typ=value, accepted_by=both(NO_TYPE))
for value in (None, 1, ["JWT"], {"JWT": 1}):
    with_header(f"typ {value!r}", TYPE, typ=value, accepted_by={"pyjwt": NO_TYPE})
for value in (["exp"], ["b64"], ["x"], "exp", None, [1], {}):
    with_header(f"crit {value!r}", CRIT, crit=value)
with_header("crit []", CRIT, crit=[], accepted_by={"joserfc": "it lets an empty list pass"})
with_header("crit of what the header has", CRIT, crit=["http://example.com/x"], **{"http://example.com/x": True})
case("crit of b64, true", CRIT, lambda: token(header(b64=True, crit=["b64"])), **both("it supports `b64` (RFC 7797)"))
case("an unencoded payload", FORM, unencoded_payload)

# Times.
case("exp now", EXP, lambda: token(payload=claims(exp=int(time.time()))))
case("exp one second ago", EXP, lambda: token(payload=claims(exp=int(time.time()) - 1)))
case("exp within the leeway for others", EXP, lambda: token(payload=claims(exp=int(time.time()) - 20)))
case("exp a fraction ago", EXP, lambda: token(payload=claims(exp=time.time() - 0.001)), joserfc=UNDECIDED)
for value in (0, -1, -1.5, 1e9, -(10**30)):
    with_claims(f"exp {value!r}", EXP, exp=value)
for value in ("tomorrow", "", True, False, None, [], {}, [9999999999]):
    with_claims(f"exp {value!r}", NO_EXP, exp=value)
with_claims("exp '9999999999'", NO_EXP, exp="9999999999", accepted_by={"pyjwt": INT})
with_claims("no exp", NO_EXP, exp=ABSENT)
for value in (b"NaN", b"Infinity", b"0x7fffffff", b"1e999", b"+1", b"01", b"1.", b"9e9_"):
    case(f"exp {value.decode()}, which isn't JSON", PAYLOAD, lambda value=value: token(payload=with_raw("exp", value)))
case("nbf in a minute", NBF, lambda: token(payload=claims(nbf=int(time.time()) + 60)))
case("nbf in a day", NBF, lambda: token(payload=claims(nbf=int(time.time()) + 86400)))
for value in ("1", True):
    with_claims(f"nbf {value!r}", NBF, nbf=value, accepted_by={"pyjwt": INT})
for value in ("x", None, [], {}):
    with_claims(f"nbf {value!r}", NBF, nbf=value)
case("iat in a minute", IAT, lambda: token(payload=claims(iat=int(time.time()) + 60)))
for value in ("1", True):
    with_claims(f"iat {value!r}", IAT, iat=value, accepted_by={"pyjwt": INT})
for value in ("x", None, [], {}):
    with_claims(f"iat {value!r}", IAT, iat=value)

# Audiences and issuers.
for value in (
    "elsewhere", "", "Tokenmint", "tokenmint ", "tokenmint/", "tokenmint2", "token", "tokenmint,elsewhere", "https://tokenmint",
    [], ["elsewhere"], [""], [1, 2], [AUDIENCE, 1], [1, AUDIENCE], [AUDIENCE, None], [[AUDIENCE]], [{"aud": AUDIENCE}],
    None, 1, True, {}, {AUDIENCE: AUDIENCE},
):  # fmt: skip
    with_claims(f"aud {value!r}", AUD, aud=value)
with_claims("no aud", AUD, aud=ABSENT)
for value in (
    "https://evil.example", "", ISSUER + "/", ISSUER.upper(), ISSUER + " ", ISSUER[:-1], ISSUER + "/../other",
    "http" + ISSUER[5:], [ISSUER], {ISSUER: 1}, None, 1, True,
):  # fmt: skip
    with_claims(f"iss {value!r}", ISS, iss=value)
with_claims("no iss", ISS, iss=ABSENT)

# Subjects.
for value in (None, 4711, True, [SUB], {"sub": SUB}):
    with_claims(f"sub {value!r}", SUBJECT, sub=value)
with_claims("no sub", SUBJECT, sub=ABSENT)
with_claims("sub ''", NOT_A_SUBJECT, sub="", accepted_by={"pyjwt": CONTENT})
for value in (" ", "user\n4711", "user\0", "x" * 5000):
    with_claims(f"sub {value[:12]!r}, {len(value)} long", NOT_A_SUBJECT, sub=value, accepted_by=both(CONTENT))

# Forms.
case("a JWE for the issuer's own key", FORM, encrypted)
case("a JWT in a JWE", FORM, lambda: encrypted(token().encode(), cty="JWT"))
case("a JWT in a JWT", PAYLOAD, lambda: token(header(cty="JWT"), token().encode()))
case("a JWT as a JSON string in a JWT", PAYLOAD, lambda: token(header(cty="JWT"), token()))
case("flattened JSON", FORM, lambda: json.dumps(dict(zip(("protected", "payload", "signature"), parts(), strict=True))))
case("two parts", FORM, lambda: ".".join(parts()[:2]))
case("two parts and a dot at the end, as for alg none", SIGNATURE, lambda: ".".join(parts()[:2]) + ".")
case("four parts", FORM, lambda: token() + ".x")
case("four parts, the last one empty", FORM, lambda: token() + ".")
case("one part", FORM, lambda: "eyJhbGciOiJSUzI1NiJ9")
case("dots", HEADER, lambda: "..")
case("no header", HEADER, lambda: resigned("", base64url(as_bytes(claims()))))
case("no payload", PAYLOAD, lambda: resigned(base64url(as_bytes(header())), ""))
case("padding in the header", FORM, lambda: resigned(padded(as_bytes(header())), parts()[1]), pyjwt=PADDING)
case("padding in the payload", FORM, lambda: resigned(parts()[0], padded(as_bytes(claims()))), pyjwt=PADDING)
case("padding in the signature", FORM, lambda: token() + "==", pyjwt=PADDING)
case("base64 in place of base64url", FORM, lambda: resigned(parts()[0], in_base64(claims(x="~~~???>>>"))))
case("unused bits in the signature", FORM, lambda: ".".join([*parts()[:2], noncanonical(parts()[2])]))
case("a space in the payload", FORM, lambda: resigned(parts()[0], parts()[1][:8] + " " + parts()[1][8:]))
case("a newline in the signature", FORM, lambda: token()[:-8] + "\n" + token()[-8:])
case("a space before the token", FORM, lambda: " " + token())
case("a newline after the token", FORM, lambda: token() + "\n")
case("a token that isn't ASCII", FORM, lambda: token() + "\u00e9")
case("Bearer in the token", FORM, lambda: "Bearer " + token())
case("20 KiB", LONG, lambda: token(payload=claims(groups=["x" * 1024] * 15)), **both(NO_LENGTH))

# Headers and payloads.
def twice_in_header(name, first, last):
    head = header(**{name: first})
    case(f"{name} {first!r} and {last!r}", HEADER, lambda: token(twice(head, name, last)), **both(LAST_MEMBER))


def twice_in_payload(name, first, last):
    make = lambda: token(payload=twice(claims(**{name: first}), name, last))  # noqa: E731
    case(f"{name} {first!r} and {last!r}", PAYLOAD, make, **both(LAST_MEMBER))


twice_in_header("alg", "RS256", "RS256")
twice_in_header("alg", "none", "RS256")
twice_in_header("kid", "rsa-1", "rsa-1")
twice_in_header("kid", "other", "rsa-1")
twice_in_header("typ", "logout+jwt", "JWT")
twice_in_header("cty", "JWT", "JSON")
twice_in_payload("aud", AUDIENCE, AUDIENCE)
twice_in_payload("aud", "elsewhere", AUDIENCE)
twice_in_payload("sub", "admin", SUB)
twice_in_payload("iss", "https://evil.example", ISSUER)
twice_in_payload("exp", 1, 9999999999)
twice_in_payload("groups", [], ["admin"])
ESCAPED = b',"\\u0061ud":"tokenmint"}'
case("aud twice, once with an escape", PAYLOAD, lambda: token(payload=as_bytes(claims())[:-1] + ESCAPED), **both(LAST_MEMBER))
case("a member twice within a claim", PAYLOAD, lambda: token(payload=with_raw("x", b'{"a":1,"a":2}')), **both(LAST_MEMBER))
NOT_OBJECTS = {
    "an array": b"[]", "a string": b'"x"', "a number": b"1", "null": b"null", "nothing": b" ", "half an object": b'{"iss":',
    "text": b"hello", "bytes that aren't UTF-8": b'{"iss":"\xff\xfe"}', "UTF-16": '{"iss":"x"}'.encode("utf-16"),
}  # fmt: skip
for name, value in NOT_OBJECTS.items():
    case(f"{name} as the header", HEADER, lambda value=value: token(value))
    case(f"{name} as the payload", PAYLOAD, lambda value=value: token(payload=value))
case("an object and more as the header", HEADER, lambda: token(as_bytes(header()) + b"{}"))
case("an object and more as the payload", PAYLOAD, lambda: token(payload=as_bytes(claims()) + b"{}"))
case("a byte order mark before the header", HEADER, lambda: token(b"\xef\xbb\xbf" + as_bytes(header())), **both(BOM))
case("a byte order mark before the payload", PAYLOAD, lambda: token(payload=b"\xef\xbb\xbf" + as_bytes(claims())), **both(BOM))
case("single quotes in the payload", PAYLOAD, lambda: token(payload=as_bytes(claims()).replace(b'"', b"'")))
case("a comma too many in the payload", PAYLOAD, lambda: token(payload=as_bytes(claims())[:-1] + b",}"))
case("1,000 levels in the payload", PAYLOAD, lambda: token(payload=with_raw("x", b"[" * 1000 + b"]" * 1000)))

# Good tokens, so that none of those above is refused for what it shares with them.
GOOD = {
    "RS256": token,
    "ES256": lambda: token(key=EC),
    "no kid": lambda: token(header(kid=ABSENT)),
    "no kid, ES256": lambda: token(header(EC, kid=ABSENT), key=EC),
    "no typ": lambda: token(header(typ=ABSENT)),
    "an access token (RFC 9068)": lambda: token(header(typ="at+jwt")),
    "typ with application/": lambda: token(header(typ="application/at+jwt")),
    "typ JOSE, as SPIFFE's": lambda: token(header(typ="JOSE")),
    "several audiences": lambda: token(payload=claims(aud=["elsewhere", AUDIENCE])),
    "nbf now": lambda: token(payload=claims(nbf=int(time.time()))),
    "no iat": lambda: token(payload=claims(iat=ABSENT)),
    "exp with a fraction": lambda: token(payload=claims(exp=time.time() + 300.5)),
    "exp in a thousand years": lambda: token(payload=claims(exp=int(time.time()) + 31_557_600_000)),
    "an unknown member of the header": lambda: token(header(x5t="x", nonce="y")),
    "an unknown claim": lambda: token(payload=claims(groups=["a", {"b": [None]}])),
    "spaces in the JSON": lambda: token(json.dumps(header(), indent=1).encode(), json.dumps(claims(), indent=2).encode()),
    "5 KiB": lambda: token(payload=claims(groups=["x" * 1024] * 3)),
    "15 KiB": lambda: token(payload=claims(groups=["x" * 1024] * 11)),
}
# Larger ones don't fit into the head of a request (8 KiB).
LONGEST_CREDENTIAL = 7000


@pytest.fixture(scope="module")
def service(tmp_path_factory, run_service, oauth_server):
    """A tokenmint that accepts the JWTs of one issuer, whose JWKS is a file."""
    folder = tmp_path_factory.mktemp("refused")
    deployment = Deployment(folder, oauth_server.config["BASE"] + "/services/oauth2/token")
    (folder / "corp.json").write_text(json.dumps(JWKS))
    # Without this, a token of 20 KiB is refused for the size of the request.
    text = deployment.config.read_text().replace("[server.limits]\n", '[server.limits]\nbody = "64 KiB"\n')
    deployment.config.write_text(
        text
        + f"""
[issuers.corp]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}", "tokenmint.example"]
jwks_file = "corp.json"

[callers.workload]
jwt_issuer = "corp"
jwt_claims = {{ sub = ["{SUB}"] }}
allow = ["identity.web"]
subject_token = "required"
subject_issuer = "corp"
"""
    )
    return run_service(deployment)


class Refused(Exception):
    """A library doesn't accept a token."""


def judged_by_pyjwt(text):
    try:
        kid = jwt.get_unverified_header(text).get("kid")
        keys = [key for key in jwt.PyJWKSet.from_dict(JWKS).keys if kid in (None, key.key_id)]
        if not keys:
            raise Refused("no such key")
        options = {"require": ["exp", "aud", "iss", "sub"]}
        for key in keys:
            try:
                return jwt.decode(text, key, [key.algorithm_name], options, audience=AUDIENCE, issuer=ISSUER)
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                if key is keys[-1]:
                    raise
    except (jwt.PyJWTError, ValueError, RecursionError) as no:
        raise Refused(no) from no


def joserfc_keys(kept):
    """The keys for a token. joserfc finds none in a set without `kid`: then the one that fits `alg` is meant."""
    head = kept.headers()
    fitting = [jwk for jwk in JWKS["keys"] if jwk["alg"] == head["alg"] and "kid" not in head]
    return import_key(fitting[0]) if fitting else KeySet.import_key_set(JWKS)


def judged_by_joserfc(text):
    registry = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
        sub={"essential": True},
    )
    try:
        # Not strict: unknown members of a header are ignored (RFC 7515, section 4).
        lenient = jws.JWSRegistry(algorithms=["RS256", "ES256"], strict_check_header=False)
        registry.validate(joserfc_jwt.decode(text, joserfc_keys, registry=lenient).claims)
    # TypeError: it breaks on a `crit` that holds no strings.
    except (JoseError, TypeError, ValueError, RecursionError) as no:
        raise Refused(no) from no


JUDGES = {"pyjwt": judged_by_pyjwt, "joserfc": judged_by_joserfc}


def as_subject_token(service, text):
    """One request by a caller whose own JWT is good."""
    headers = {"Authorization": f"Bearer {token()}"}
    return requests.post(service.url + PATH, json={"subject_token": text}, headers=headers, timeout=10)


def as_credential(service, text):
    headers = {"Authorization": b"Bearer " + text.encode()}
    return requests.post(service.url + PATH, json={"subject_token": token()}, headers=headers, timeout=10)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in GOOD.items()])
def test_a_good_token_is_accepted_by_all(service, make):
    answers = [as_subject_token(service, make())]
    if len(make()) < LONGEST_CREDENTIAL:
        answers.append(as_credential(service, make()))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert pyjwt(service.jwks_url("web"), answer.json()["token"], "RS256", MINTED_ISSUER, SUB)["sub"] == SUB
    for judge in JUDGES.values():
        judge(make())


def refusals(service, rule):
    """The number of refusals by this rule, of the issuer or of none."""
    samples = tuple(f'tokenmint_issuer_refusals_total{{issuer="{issuer}",rule="{rule}"}} ' for issuer in ("corp", ""))
    lines = requests.get(f"{service.url}/metrics", timeout=10).text.splitlines()
    return sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith(samples))


def named(cases):
    return [pytest.param(*of_case, id="-".join([of_case[-1].name, *of_case[:-1]])) for of_case in cases]


@pytest.mark.parametrize("bad", named([(bad,) for bad in CASES]))
def test_a_bad_subject_token_is_refused_by_its_rule(service, bad):
    text = bad.make()
    rule = "subject_claim" if bad.words in (SUBJECT, NOT_A_SUBJECT) else RULES[bad.words]
    refused_before = refusals(service, rule)
    answer = as_subject_token(service, text)
    assert answer.status_code == 400, answer.text
    said = answer.json()
    assert (said["error"], said["field"]) == ("invalid_request", "subject_token")
    assert bad.words in said["error_description"]
    for part in text.split("."):
        assert len(part) < 8 or part not in answer.text, "the answer quotes the token"
    assert refusals(service, rule) == refused_before + 1


def fits_a_header(text):
    return "\n" not in text and len(text) < LONGEST_CREDENTIAL


@pytest.mark.parametrize("bad", named([(bad,) for bad in CASES if fits_a_header(bad.make())]))
def test_a_bad_credential_is_refused_as_a_wrong_api_key_is(service, bad):
    """The answer says nothing; the metrics have the rule. The log has some of these lines: test_issuers.py."""
    text, rule = bad.make(), RULES[bad.words]
    refused_before = refusals(service, rule)
    answer, wrong_key = as_credential(service, text), as_credential(service, "wrong")
    assert (answer.status_code, wrong_key.status_code) == (401, 401)
    assert without_id(answer) == without_id(wrong_key)
    assert answer.headers["WWW-Authenticate"] == wrong_key.headers["WWW-Authenticate"]
    # Anything else is an API key that nobody has.
    is_jwt = re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]*", text, re.ASCII)
    assert refusals(service, rule) == refused_before + bool(is_jwt)


JUDGEMENTS = [(library, bad) for bad in CASES for library in JUDGES if bad.accepted_by.get(library) != UNDECIDED]


@pytest.mark.parametrize(("library", "bad"), named(JUDGEMENTS))
def test_a_library_agrees_or_the_case_says_why_not(library, bad):
    if library in bad.accepted_by:
        JUDGES[library](bad.make())
    else:
        with pytest.raises(Refused):
            JUDGES[library](bad.make())
