"""Other people's JWTs: the cost of a token for a workload with a JWT of its own, and with a user's subject token."""

import base64
import json
import statistics
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from processes import memory_mib
from servers import USERS, api_key, digest, http_request, write_requests

ISSUER, AUDIENCE = "https://login.acme.example", "tokenmint"
SUBJECT_TOKENS = 100_000
"""The number of different subject tokens, after which the memory is compared."""


def encode(number, length):
    return base64.urlsafe_b64encode(number.to_bytes(length)).rstrip(b"=").decode()


class Issuer:
    """An issuer with an RSA key and an EC key, in a JWKS file."""

    def __init__(self, folder):
        self.rsa, self.ec = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
        n, point = self.rsa.public_key().public_numbers().n, self.ec.public_key().public_numbers()
        keys = [
            {"kty": "RSA", "kid": "rsa", "n": encode(n, 256), "e": "AQAB"},
            {"kty": "EC", "kid": "ec", "crv": "P-256", "x": encode(point.x, 32), "y": encode(point.y, 32)},
        ]
        self.file = folder / "issuer-jwks.json"
        self.file.write_text(json.dumps({"keys": keys}))

    def token(self, subject, kid, number=0):
        key, algorithm = (self.rsa, "RS256") if kid == "rsa" else (self.ec, "ES256")
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "jti": str(number), "iat": now, "exp": now + 3 * 3600}
        return jwt.encode(claims, key, algorithm, headers={"kid": kid})

    def config(self):
        return "\n".join([
            "[issuers.corp]", f'issuer = "{ISSUER}"', f'audience = ["{AUDIENCE}"]', f'jwks_file = "{self.file}"',
            "[callers.workload]", 'jwt_issuer = "corp"', 'jwt_claims = { sub = ["job"] }', 'allow = ["identity.p00000"]',
            "[callers.proven]", f'api_key_sha256 = ["{digest(90_000)}"]', 'allow = ["identity.p00000"]',
            'subject_token = "required"', 'subject_issuer = "corp"',
            # A user sends many tokens.
            "[server.limits]", "remints_per_minute = 1000000", "remint_burst = 1000000",
        ])


def user(number):
    return f"user-{number:05}"


def subject_requests(issuer, path, kid, first, count):
    """Requests of all users in turn, each with a subject token of its own."""
    body = lambda number: json.dumps({"subject_token": issuer.token(user(number % USERS), kid, number)})
    ask = lambda number: http_request("POST", "/identity-token", body(number), api_key(90_000))
    return write_requests(path, map(ask, range(first, first + count)))


def measure(bench, say):
    """Compares CPU per token with an API key, with a workload's JWT, and with a subject token, and with the raw signature.

    Returns what -> [(driven, CPU over raw, CPU over the API key's)], and the memory before and after many subject tokens.
    """
    issuer = Issuer(bench.folder)
    job = issuer.token("job", "rsa")
    body = lambda number: json.dumps({"sub": user(number)})
    requests = {
        "API key": bench.identity,
        "a workload's JWT": write_requests(
            bench.folder / "workload.requests",
            [http_request("POST", "/identity-token", body(number), job) for number in range(USERS)],
        ),
        "API key and RS256 subject token": subject_requests(issuer, bench.folder / "proven.requests", "rsa", 0, USERS),
        "API key and ES256 subject token": subject_requests(issuer, bench.folder / "proven-ec.requests", "ec", 0, USERS),
    }
    figures = {what: [] for what in requests}
    with bench.tokenmint("JWTs", more=issuer.config()) as server:
        for turn in range(bench.rounds):
            say(f"round {turn + 1} of {bench.rounds}: JWTs of other issuers")
            for what, asked in requests.items():
                before = bench.raw()
                driven = bench.tools.drive(server, asked, 16, bench.seconds)
                raw = statistics.mean((before[0], bench.raw()[0]))
                figures[what].append((driven, driven.cpu_us / raw, driven.cpu_us))
        memory = memory_after_many(bench, server, issuer, say)
    return figures, memory


def memory_after_many(bench, server, issuer, say):
    """Sends many different subject tokens. Returns the resident memory in MiB before and after, and how many were answered."""
    count = SUBJECT_TOKENS * bench.seconds // 2
    say(f"{count:,} different subject tokens")
    asked = subject_requests(issuer, bench.folder / "many.requests", "ec", USERS, count)
    # All connections and buffers exist before.
    bench.tools.drive(server, bench.identity, 64, bench.seconds)
    before, minted = memory_mib(server.pids()), 0
    while minted < count:
        driven = bench.tools.drive(server, asked, 64, bench.seconds)
        minted += int(driven.per_second * bench.seconds)
    return before, memory_mib(server.pids()), minted


def section(found, targets, table, spread):
    figures, (before, after, minted) = found
    by_key = [cpu for _, _, cpu in figures["API key"]]
    over_key = lambda what: [cpu / key for (_, _, cpu), key in zip(figures[what], by_key)]
    targets.below("CPU of a token with a workload's JWT over an API key's", over_key("a workload's JWT"), 1.05, "{:.3f}")
    what = "API key and RS256 subject token"
    targets.below("CPU of a token with an RS256 subject token over an API key's", over_key(what), 1.15, "{:.3f}")
    targets.below(f"memory after {minted:,} subject tokens over before", [after / before], 1.1, "{:.2f}")
    rows = [
        [what, spread((driven.per_second for driven, _, _ in rounds), "{:,.0f}"), spread(raw for _, raw, _ in rounds),
         spread(over_key(what), "{:.3f}")]
        for what, rounds in figures.items()
    ]
    head = ["credential", "tokens/s", "CPU per token over raw", "over an API key's"]
    return f"### JWTs of other issuers, 16 connections\n\n{table(head, rows)}"
