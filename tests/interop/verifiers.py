"""Other people's JWT libraries, each as a function that gives a token's claims or raises Refused.

The Node and Ruby ones are scripts in verifiers/. They say no with "refused: ..." and exit code 1; any other end is a
broken script, which must not look like a refusal, or every test of a tampered token would pass.
"""

import json
import subprocess
import time

import jwt
from service import HERE, TOOLS, environment


class Refused(Exception):
    """The library says that this token is not to be trusted."""


def pyjwt(jwks_url, token, alg, issuer, sub):
    try:
        key = jwt.PyJWKClient(jwks_url, timeout=10).get_signing_key_from_jwt(token)
        # The audience is left to the tests of claims: most verifiers are not told which to expect.
        return jwt.decode(
            token, key, [alg], issuer=issuer, subject=sub, options={"require": ["exp", "iat"], "verify_aud": False}
        )
    except jwt.PyJWKClientConnectionError:
        raise  # no key set, so no verdict
    except jwt.PyJWTError as no:
        raise Refused(no) from no


def script(program, name):
    def verify(*arguments):
        command = [program, str(HERE / "verifiers" / name), *arguments]
        # NODE_PATH: the libraries lie in the tools folder, the scripts do not.
        settings = environment() | {"NODE_PATH": str(TOOLS / "node" / "node_modules"), "NODE_NO_WARNINGS": "1"}
        ran = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)
        if ran.returncode == 1 and ran.stderr.startswith("refused: "):
            raise Refused(ran.stderr.strip())
        assert ran.returncode == 0, f"{name} broke with exit code {ran.returncode}:\n{ran.stderr}"
        return json.loads(ran.stdout)

    verify.__name__ = name.partition(".")[0]
    return verify


jose = script("node", "jose.cjs")
jwks_rsa = script("node", "jwks-rsa.cjs")
ruby_jwt = script("ruby", "ruby-jwt.rb")
# (jwks_url, token, alg, issuer, sub) -> claims
BY_JWKS_URL = [pyjwt, jose, jwks_rsa, ruby_jwt]

# (token, jwk as JSON, alg) -> claims
jose_with_one_jwk = script("node", "jose-jwk.cjs")
# (token, secret) -> claims
ruby_jwt_with_secret = script("ruby", "ruby-jwt-secret.rb")


def tampered(token, **changes):
    """The same token with other claims under the old signature."""
    header, payload, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    forged = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    assert forged != payload
    return f"{header}.{forged}.{signature}"


def assert_fresh(claims, ttl):
    """`exp` and `iat` are whole seconds, `ttl` apart, and `iat` is now."""
    assert type(claims["iat"]) is int
    assert type(claims["exp"]) is int
    assert claims["exp"] - claims["iat"] == ttl
    assert abs(time.time() - claims["iat"]) < 30
