"""The leak scan (G-22; cases 41, 47, 48 and 61): a canary in every secret and every input, and a look at all that comes
out of the process while each is used, refused and misused."""

import json
import pathlib
import random
import re
import secrets
import subprocess

from deployment import SEED, Connection, Deployment, Sandbox, amount, expect, free_port, get, post, salesforce_at

UPSTREAM_FAULTS = [
    "garbage", "html", "empty", "empty_object", "latin1", "deep", "duplicate_keys", "missing_token", "numeric_token", "crlf_token",
    "wrong_token_type", "foreign_instance_url", "truncated", "reset", "close", "status",
]


def canary(what):
    return f"canary-{what}-{secrets.token_hex(8)}"


def leak_scan():
    port, passphrase, intercom, audit = free_port(), canary("passphrase"), canary("intercom"), canary("audit-key")
    more = salesforce_at(port, "logins_per_hour = 3600", 'secret_file = "intercom.secret"')
    server = 'audit_key_file = "audit.key"\nlimits.remint_burst = 1000000\nlimits.remints_per_minute = 1000000'
    with Deployment(server, more, claims='claims = ["locale"]') as service:
        service.make_key("crm", "Crm1")
        service.write_private("intercom.secret", intercom + "\n")
        service.write_private("audit.key", audit + "\n")
        service.write_private("passphrase", passphrase + "\n")
        encrypt(service, passphrase)
        # As much as it can be made to say.
        service.start(more_environment={"RUST_LOG": "trace"})
        hidden = {"passphrase": passphrase, "Intercom secret": intercom, "audit key": audit, "API key": service.api_key}
        for file in service.folder.glob("keys/*/*.key"):
            lines = file.read_text().splitlines()[1:-1]
            hidden |= {f"{file.name}, line {n}": line for n, line in enumerate(lines) if len(line) == 64}
        subjects, outputs = [], []
        with Sandbox(service, port) as sandbox:
            ask(service, sandbox, hidden, subjects, outputs)
        recovered = service.recovers()
        outputs += [Connection(service.ops).ask(get("/metrics"))[2], Connection(service.port).ask(get("/.well-known/jwks.json"))[2]]
        outputs += misused(service, hidden)
        process = pathlib.Path(f"/proc/{service.process.pid}")
        for name in ("cmdline", "environ"):
            try:
                outputs.append((process / name).read_bytes())
            except PermissionError:
                # Not even we may look: so much the better.
                pass
        expect(service.panics() == 0, "it panicked")
        log = service.log.read_bytes()
        lines = log.splitlines()
        everything = b"\n".join([log, *outputs])
        found = search(everything, hidden)
        expect(not found, f"in the outputs: {found}")
        # The sandbox's page in place of an answer.
        expect(b"We are down" not in everything, "a page that came from Salesforce stands in the outputs")
        told = [line[:300] for line in lines if not is_event(line)]
        expect(not told, f"{len(told)} lines of the log are no event of their own: {told[:3]}")
        size, wanted = len(everything), amount(5, 50) * 10**6
        expect(size >= wanted, f"only {size / 1e6:.1f} MB were looked through")
        tokens = sum(name.startswith("token ") for name in hidden)
        expect(tokens > 100, f"only {tokens} tokens were minted with claims and headers that are canaries")
        audited = log.count(b'"subject_hmac"')
        expect(audited > 1000, f"only {audited} lines with the hash of a subject: the scan would find nothing")
        return (
            f"{len(hidden)} canaries, {tokens} tokens among them, 0 hits in {size / 1e6:.1f} MB of logs at RUST_LOG=trace, answers, metrics, JWKS, messages, "
            f"cmdline and environ; {audited} subjects only as hash; {len(lines)} lines are {len(lines)} events",
            recovered,
        )


def encrypt(service, passphrase):
    """Puts the key of `web` under a passphrase, which the configuration has in a file."""
    key = service.folder / "keys/web/Web1.key"
    command = ["openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", key, "-out", f"{key}.new", "-passout", f"pass:{passphrase}"]
    subprocess.run(command, check=True, capture_output=True)
    pathlib.Path(f"{key}.new").replace(key)
    key.chmod(0o600)
    config = service.folder / "tokenmint.toml"
    text = config.read_text().replace('directory = "keys/web"', 'directory = "keys/web"\npassphrase_file = "passphrase"')
    config.write_text(text)


def ask(service, sandbox, hidden, subjects, outputs):
    """Requests of every kind, good and bad, each with canaries, until the log is long enough."""
    dice, connection, n = random.Random(SEED), Connection(service.port), 0
    key = service.api_key

    def send(request, may_say=()):
        """What the answer may not say is kept for the scan: an answer says to the caller what the caller may know."""
        try:
            status, head, body = connection.ask(request)
        except (OSError, EOFError):
            return None
        text = head if 200 <= status < 300 else head + body
        for word in may_say:
            text = text.replace(word.encode(), b"")
        outputs.append(text)
        return body if status == 200 else None

    # Salesforce's words reach the caller that asked, and only those.
    words = canary("upstream-description")
    while service.log.stat().st_size < amount(5, 50) * 10**6 * 1.02:
        n += 1
        sub, claim, path, header, field = (canary(what) for what in ("subject", "claim", "path", "header", "field"))
        if n <= 3000:
            hidden |= {f"subject {n}": sub, f"claim {n}": claim, f"path {n}": path, f"header {n}": header, f"field {n}": field}
        strange = f"X-Canary: {header}\r\nUser-Agent: {header}\r\nCookie: {header}\r\nX-Request-Id: {header} {{\"\r\n"
        body = send(post("/identity-token", json.dumps({"sub": sub, "claims": {"locale": claim}}).encode(), key, strange))
        if body and n <= 3000:
            hidden[f"token {n}"] = json.loads(body)["token"].split(".")[2]
        # What a caller calls its own fields it is told; values never.
        send(post("/identity-token", json.dumps({"sub": sub, field: claim}).encode(), key, strange), may_say=[field])
        send(post("/identity-token", json.dumps({"sub": sub, "claims": {field: claim}}).encode(), key), may_say=[field])
        send(post("/identity-token", json.dumps({"sub": sub + "\x1b[31m\r\n"}).encode(), key))
        send(post("/identity-token", json.dumps({"sub": sub}).encode(), key, f"X-Canary: {header}\x7f\x1b\r\n"))
        send(post("/identity-token", f'{{"sub": "{sub}", "sub": "{sub}"'.encode(), key))
        send(post("/identity-token", json.dumps({"sub": sub, "profile": field}).encode(), key))
        send(post("/identity-token", json.dumps({"sub": sub}).encode(), claim))
        send(get(f"/{path}?key={field}\x1b[31m", strange))
        send(post("/intercom-user-jwt", json.dumps({"user_id": sub}).encode(), key))
        if n % 20 == 0:
            fault = dice.choice(UPSTREAM_FAULTS)
            answer = {"fault": fault, "path": "token", "times": 1}
            if fault == "status":
                answer |= {"status": 400, "error": "invalid_grant", "error_description": f"{words} \x1b[31m\r\nnew line"}
            if fault == "foreign_instance_url":
                answer["location"] = f"https://{field}.example"
            sandbox.set("faults", [answer])
            body = send(post("/oauth-access-token", b"{}", key), may_say=[words])
            if body:
                token = json.loads(body)["access_token"]
                hidden[f"access token {n}"] = token
                send(post("/oauth-access-token", json.dumps({"rejected_token": token}).encode(), key), may_say=[words])
            body = send(post("/oauth-assertion", b"{}", key))
            if body:
                hidden[f"assertion {n}"] = json.loads(body)["assertion"].split(".")[2]


def misused(service, hidden):
    """What the commands say when a secret is in the wrong place."""
    config = service.folder / "tokenmint.toml"
    text, said = config.read_text(), []
    wrong = {
        "an API key in place of its hash": re.sub(r'api_key_sha256 = \["[0-9a-f]*"\]', f'api_key_sha256 = ["{service.api_key}"]', text),
        "a wrong passphrase": text.replace('passphrase_file = "passphrase"', f'passphrase = "{hidden["audit key"]}"'),
        "a secret as an unknown key": text.replace("[server]", f'[server]\n{hidden["audit key"].replace("-", "_")} = 1'),
        "a key as TOML": text.replace("[server]", f'[server]\nkey = "{hidden["passphrase"]}'),
    }
    for name, broken in wrong.items():
        (service.folder / "wrong.toml").write_text(broken)
        ran = service.run("check", "--config", "wrong.toml", check=False)
        expect(ran.returncode == 64, f"{name} is taken: {ran.returncode}")
        said.append((ran.stdout + ran.stderr).encode())
    for command in (["check"], ["keys", "list", "--json"], ["jwks"], ["mint", "identity.web", "--sub", "\x1b"]):
        ran = service.run(*command, check=False)
        said.append((ran.stdout + ran.stderr).encode())
    return said


def search(everything, hidden):
    """Which of them stand there. One pass for all that have the canaries' form, one each for the rest."""
    standing = set(re.findall(rb"canary-[a-z-]+-[0-9a-f]{16}", everything))
    found = [name for name, word in hidden.items() if word.startswith("canary-") and word.encode() in standing]
    others = {word.encode(): name for name, word in hidden.items() if not word.startswith("canary-")}
    # Signatures and keys are long words of base64; looked up whole and as parts of a longer one.
    words = set(re.findall(rb"[A-Za-z0-9_+/=-]{32,}", everything))
    return found + [name for word, name in others.items() if any(word in long for long in words if len(long) >= len(word))]


def is_event(line):
    if b"\x1b" in line:
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
