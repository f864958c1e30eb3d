"""docs/troubleshoot/symptoms.md: each command shows what the page says, once the configuration has that fault.

A `console` block below a heading is a transcript: `$ ` and a command, then its output. `…` stands for any text of a line, and a line
that is only `…` for any lines. FAULTS has, for each heading, the shell commands that bring the fault about: one text for all blocks of
the section, or one for each block. Blocks of other sections aren't run.
"""

import os
import re
import subprocess

import pytest
from service import REPO, TOOLS

PAGE = REPO / "docs/troubleshoot/symptoms.md"
ASK = re.search(r"^```bash\n(ask\(\) .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]

BASE = f"""
tokenmint init etc --issuer www.example.com --kid WebAppKey1 --with fin > init.txt
API_KEY=$(grep -om1 'tm_[A-Za-z0-9_-]*' init.txt)
cd etc
openssl rand -hex 32 > intercom.secret
TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=$API_KEY
{ASK}
set_to() {{ sed -i "s|^$1 = .*|$1 = $2|" tokenmint.toml; }}
serve() {{ tokenmint serve > serve.txt 2>&1 & until curl -sf http://127.0.0.1:8080/livez > live.txt; do sleep 0.1; done; }}
simulate() {{ tokenmint sandbox "$@" > sandbox.txt 2>&1 & until curl -sf http://127.0.0.1:8090/__sandbox/state > state.txt; do sleep 0.1; done; }}
post() {{ curl -sf "http://127.0.0.1:8090/__sandbox/$1" -H 'Content-Type: application/json' -d "$2" > posted.txt; }}
"""
TOKEN = "tokenmint mint identity.web --sub user-1 > token.txt\n"
# Another key under the same id, in the place of the old one, which Setup has.
OTHER_KEY = """
cp keys/web/WebAppKey1.jwk in-setup.jwk
tokenmint keys new WebAppKey1 --directory new > made.txt
other_key() { rm -r keys/web; cp -r new keys/web; }
"""
TWO_KEYS = """
tokenmint keys new WebAppKey2 --directory more > made.txt; cp more/* keys/web
keyset() { printf '[[key]]\\nkid = "%s"\\nsign_from = %s\\n' WebAppKey1 "$1" WebAppKey2 "$2" > keys/web/keyset.toml; }
ago() { date -u -d "$1" +%Y-%m-%dT%H:%M:%SZ; }
"""
# A token with the key's signature over claims that tokenmint wouldn't sign.
FORGED = """
part() { basenc --base64url -w0 | tr -d =; }
forged() {
    unsigned=$(printf '{"alg":"RS256","typ":"JWT","kid":"WebAppKey1"}' | part).$(printf %s "$1" | part)
    echo $unsigned.$(printf %s "$unsigned" | openssl dgst -sha256 -sign keys/web/WebAppKey1.key | part)
}
"""
SALESFORCE = """
tokenmint keys new CrmKey1 --directory keys/crm > made.txt
cat >> tokenmint.toml <<'END'
[keysets.crm]
directory = "keys/crm"
[identity.web.messaging]
scrt_url = "http://127.0.0.1:8090"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.consumer"
username = "integration@acme.com"
audience = "https://acme.my.salesforce.com"
token_url = "http://127.0.0.1:8090/services/oauth2/token"
END
set_to allow '["identity.web", "intercom.fin", "bundles.fin", "oauth.crm"]'
"""
PUBLIC = """
cat >> tokenmint.toml <<'END'
[server.public]
listen = "127.0.0.1:8443"
url = "https://tokens.example.com"
END
"""
LOGIN_PAGE = """
cat > login.py <<'END'
import http.server
class Login(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "https://login.example.com/")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8444), Login).serve_forever()
END
python3 login.py 2> login.txt &
until curl -s http://127.0.0.1:8444/; do sleep 0.1; done
"""
EXPIRED = 'forged "{\\"iss\\":\\"www.example.com\\",\\"sub\\":\\"user-1\\",\\"exp\\":$(($(date +%s) - 7200))}" > token.txt\n'

# A second configuration mints the JWTs of an issuer. `cluster` says where the service has its keys from.
ISSUER = """
mkdir platform
cat > platform/tokenmint.toml <<'END'
[keysets.platform]
directory = "keys"
[identity.workload]
keyset = "platform"
issuer = "https://login.example.com"
audience = "another-service"
END
tokenmint keys new Platform1 --keyset platform --config platform/tokenmint.toml > made.txt
tokenmint jwks --config platform/tokenmint.toml > platform.jwks.json
jwt() { tokenmint mint identity.workload --sub shop --config platform/tokenmint.toml 2> warned.txt; }
cluster() {
    printf '[issuers.cluster]\\nissuer = "https://login.example.com"\\naudience = ["%s"]\\n%s\\n' "$1" "$2" >> tokenmint.toml
    ln -s serve.txt tokenmint.log
}
proven() { sed -i 's/^api_key_sha256 = .*/&\\nsubject_token = "required"\\nsubject_issuer = "cluster"/' tokenmint.toml; }
"""
FILE = """'jwks_file = "platform.jwks.json"'"""
SHOP = """printf '[callers.shop]\\njwt_issuer = "cluster"\\njwt_claims = { sub = ["shop"] }\\nallow = ["identity.web"]\\n' >> tokenmint.toml"""

UAT = "https://acme--uat.sandbox.my.salesforce.com"

FAULTS = {
    "Every chat is anonymous": [
        TOKEN,
        "jq 'del(.x5c)' keys/web/WebAppKey1.jwk > in-setup.jwk",
        LOGIN_PAGE,
    ],
    "Chats are anonymous since a deployment": [OTHER_KEY + "other_key", OTHER_KEY + "serve; other_key"],
    "Chats are anonymous since a key rotation": [
        TWO_KEYS + 'keyset "$(ago "2 days ago")" "$(ago "5 minutes ago")"; serve',
        TWO_KEYS + 'cp keys/web/WebAppKey1.jwk in-setup.jwk; keyset "$(ago "2 days ago")" "$(ago "5 minutes ago")"\n' + TOKEN,
    ],
    "Chats are anonymous only on mobile": TOKEN + """printf '"%s"' "$(cat token.txt)" > from-the-app.txt""",
    "Chats are anonymous only on one channel": PUBLIC
    + "tokenmint salesforce-metadata --out project > made.txt\nsed -i 's|www.example.com|&/|' $(grep -rl www.example.com project)",
    "Some chats are anonymous now and then": """set_to ttl '"4m"'""",
    "A token is rejected": FORGED + """forged '{"iss":"www.example.com","sub":"user-1","exp":"6000"}' > token.txt""",
    "The chat button doesn't appear": FORGED + EXPIRED,
    "The session ends after some minutes": """set_to ttl '"2h"'""",
    "Identity token expired, again and again": """serve; for i in $(seq 140); do ask identity-token '{"sub": "user-1"}' > last.txt; done""",
    "Setup refuses the key": "tokenmint jwks > key.jwk",
    "invalid_grant": [
        SALESFORCE
        + """simulate; serve; post faults '[{"path": "token", "fault": "status", "error": "invalid_grant",
        "error_description": "user hasn'"'"'t approved this consumer"}]'""",
        SALESFORCE + "tokenmint keys new CrmKey1 --directory other > made.txt; cp other/CrmKey1.crt uploaded.crt",
        SALESFORCE + """simulate; post clock-skew '{"seconds": 600}'""",
        SALESFORCE + f"""set_to audience '"https://login.salesforce.com"'; set_to token_url '"{UAT}/services/oauth2/token"'""",
        SALESFORCE + f"""set_to audience '"{UAT}"'; sed -i /^token_url/d tokenmint.toml""",
    ],
    "app_not_found": SALESFORCE + """set_to audience '"https://login.salesforce.com"'; sed -i /^token_url/d tokenmint.toml""",
    "invalid_client, from Salesforce": SALESFORCE + "simulate; set_to consumer_key '\"3MVG9.other\"'",
    "The backend gets no answer": "serve; ln -s serve.txt tokenmint.log",
    "400 invalid_request": "serve",
    "401 invalid_client": "serve",
    "401 for a JWT": ISSUER + f"cluster tokenmint {FILE}; {SHOP}; serve; JWT=$(jwt)",
    "400 subject_token": ISSUER + f"cluster tokenmint {FILE}; proven; serve; ID_TOKEN=$(jwt)",
    "403 access_denied": "serve",
    "404, 405, 406, 413, 415": """serve; head -c 20000 /dev/zero | tr '\\0' ' ' > large.json""",
    "429 rate_limited": """serve; for i in $(seq 140); do ask identity-token '{"sub": "user-1"}' > last.txt; done""",
    "502 unverified": SALESFORCE + "serve; simulate --upload keys/crm/CrmKey1.jwk",
    "503 overloaded": """
sed -i 's/^listen = .*/&\\n[server.limits]\\nsigning_queue = 1/' tokenmint.toml; serve
export -f ask; export TOKENMINT_URL TOKENMINT_API_KEY
seq 300 | xargs -P 60 -I{} bash -c 'ask identity-token "{\\"sub\\": \\"user-{}\\"}"' > answers.txt
grep -q overloaded answers.txt""",
    "503 temporarily_unavailable": TWO_KEYS + 'keyset "$(ago "2 days")" "$(ago "3 days")"; serve',
    "503 issuer_unavailable": ISSUER
    + """cluster another-service 'jwks_url = "http://127.0.0.1:8445/jwks.json"'; proven; serve; ID_TOKEN=$(jwt)""",
    "503 upstream_unavailable, 504 upstream_timeout": SALESFORCE + "serve",
    "Fin doesn't know the user": "tokenmint mint intercom.fin --sub 4711 > intercom-user-jwt.txt; openssl rand -hex 32 > intercom.secret",
    "The service won't start": "set_to ttl 3600; chmod 644 keys/web/WebAppKey1.key",
    "A reload is refused": "serve; set_to listen '\"127.0.0.1:8081\"'",
    "A key isn't fetched": "serve; curl -s http://127.0.0.1:8080/keysets/web/jwks.json > set.json; tokenmint keys rotate --keyset web > made.txt",
    "Answers are slow": SALESFORCE + "simulate; serve; ask oauth-access-token > last.txt",
    "Too many logins at Salesforce": SALESFORCE
    + """
sed -i 's/^consumer_key/logins_per_hour = 1\\n&/' tokenmint.toml; simulate; serve
ask oauth-access-token > last.txt; set_to consumer_key '"3MVG9.renamed"'; tokenmint check --running > checked.txt""",
}

SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cases():
    found = []
    for heading, text in SECTION.findall(PAGE.read_text()):
        for number, block in enumerate(BLOCK.findall(text)):
            if block.startswith("$ "):
                found.append(pytest.param(heading, number, block, id=f"{heading} {number + 1}"))
    return found


def pattern(shown):
    """The output as the page shows it, as a regular expression."""
    lines = [r"(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + r"\n" for line in shown]
    return "".join(lines)


def test_each_fault_is_that_of_a_section():
    assert set(FAULTS) == {case.values[0] for case in cases()}


@pytest.mark.parametrize("heading, number, block", cases())
def test_a_symptom_looks_as_the_page_says(heading, number, block, tmp_path):
    fault = FAULTS[heading] if isinstance(FAULTS[heading], str) else FAULTS[heading][number]
    steps = [step.split("\n") for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    commands = "".join(f"{{ {step[0]}\n}} > {tmp_path}/shown.{n} 2>&1 || true\n" for n, step in enumerate(steps))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tokenmint").symlink_to(os.path.abspath(os.environ["TOKENMINT_BIN"]))
    (tmp_path / "tmp").mkdir()
    ran = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "bash", "-euo", "pipefail", "-c", f"ip link set lo up\n{BASE}\n{fault}\n{commands}"],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path / 'bin'}:{TOOLS / 'venv' / 'bin'}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path / "tmp"),
            "LANG": "C.UTF-8",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    for n, (command, *shown) in enumerate(steps):
        output = (tmp_path / f"shown.{n}").read_text()
        output += "" if output.endswith("\n") else "\n"
        assert re.fullmatch(pattern(shown[:-1]), output), f"$ {command}\n{output}"
