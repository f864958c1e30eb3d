"""The tokenmint under test: a deployment on disk (keys, secret, tokenmint.toml) and the process that serves it."""

import hashlib
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time

import requests

REPO = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(REPO / "tests"))

from ports import free_port  # noqa: E402

TOOLS = pathlib.Path(os.environ.get("TOKENMINT_TOOLS") or REPO / "target" / "tools").resolve()

# keyset -> key id. All are unlike, so that a mix-up cannot pass; the dots catch a file name cut at the first one.
KIDS = {"web": "WebAppKey1", "web512": "WebAppKey512", "crm": "crm-2026.11.a"}
ISSUER = "intercom.com"
# With the slash that a URL library would add or take away: an issuer is compared byte for byte.
ISSUER_512 = "https://chat.acme.example/"
IDENTITY_AUDIENCE = "https://acme.my.salesforce-scrt.com"
CONSUMER_KEY = "3MVG9.consumer_key.of.the.tests"
USERNAME = "integration@acme.example"
LOGIN_AUDIENCE = "https://login.salesforce.com"
ZENDESK_KID = "app_65f0c0ffee"
# The profiles [hs256.NAME], each with a secret of its own in NAME.secret.
HS256_PROFILES = ["zendesk", "stream", "freshchat", "kustomer"]

# For the commands of a page: the service may write a line of its log a moment after its answer, so `grep` of a log waits for it.
PATIENT_GREP = """
grep() {
  local attempt
  for attempt in {1..100}; do
    command grep "$@" && return
    [[ ${*: -1} == *.log ]] || return
    sleep 0.1
  done
  return 1
}
"""


def configuration(listen, token_url, everything, one_of_each):
    """tokenmint.toml. `everything` and `one_of_each` are the API keys of the two callers."""
    return f"""
[server]
listen = "{listen}"
state_directory = "state"

[server.limits]
# Schemathesis asks for a few favourite subjects far more often than any page would.
remints_per_minute = 1000000
remint_burst = 1000000

[keysets.web]
directory = "keys/web"
[keysets.web512]
directory = "keys/web512"
[keysets.crm]
directory = "keys/crm"

[identity.web]
keyset = "web"
issuer = "{ISSUER}"
audience = "{IDENTITY_AUDIENCE}"
algorithm = "RS256"
ttl = "1h"
max_ttl = "1h"
claims = ["locale"]

# No Salesforce is there, but tokenmint itself, which answers 404 in JSON: so each exchange is refused for good, until
# the minute's requests are used up.
[identity.web.messaging]
scrt_url = "http://{listen}"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"

# Without [messaging]: its tokens can't be exchanged.
[identity.web512]
keyset = "web512"
issuer = "{ISSUER_512}"
algorithm = "RS512"
ttl = "10m"
max_ttl = "1h"

[oauth.crm]
keyset = "crm"
consumer_key = "{CONSUMER_KEY}"
username = "{USERNAME}"
audience = "{LOGIN_AUDIENCE}"
token_url = "{token_url}"
assertion_ttl = "150s"

[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"

[intercom.fin]
secret_file = "intercom.secret"
ttl = "1h"

[hs256.zendesk]
secret_file = "zendesk.secret"
kid = "{ZENDESK_KID}"
subject_claim = "external_id"
fixed_claims = {{ scope = "user" }}
claims = ["name", "email", "email_verified"]
[hs256.stream]
secret_file = "stream.secret"
subject_claim = "user_id"
[hs256.freshchat]
secret_file = "freshchat.secret"
subject_claim = "reference_id"
claims = ["freshchat_uuid", "first_name", "last_name", "email"]
[hs256.kustomer]
secret_file = "kustomer.secret"
subject_claim = "externalId"
ttl = "15m"

[callers.everything]
api_key_sha256 = ["{sha256(everything)}"]
allow = [
  "identity.web", "identity.web512", "oauth.crm", "intercom.fin",
  "hs256.zendesk", "hs256.stream", "hs256.freshchat", "hs256.kustomer",
]

# One profile of each kind, so that "profile" may be left out: this is the caller that Schemathesis plays.
[callers.one-of-each]
api_key_sha256 = ["{sha256(one_of_each)}"]
allow = ["identity.web", "oauth.crm", "intercom.fin", "hs256.stream", "bundles.fin"]
"""


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def environment():
    """Ours without TOKENMINT_*: those are configuration to tokenmint, and TOKENMINT_BIN would be an unknown key."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOKENMINT_")}


class Deployment:
    """A folder with all that `serve --config` needs. `again()` is the same deployment on a second machine."""

    def __init__(self, folder, token_url, original=None):
        self.folder = pathlib.Path(folder)
        self.token_url = token_url
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "tokenmint.toml"
        self.listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.listen}"
        if original is None:
            self.api_key, self.one_of_each_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
            self.intercom_secret = secrets.token_urlsafe(32)
            self.hs256_secrets = {name: secrets.token_urlsafe(32) for name in HS256_PROFILES}
            self._make_keys()
            # With the newline that an editor leaves: it is not part of the secret.
            self._write_private("intercom.secret", self.intercom_secret + "\n")
        else:
            self.api_key, self.one_of_each_key = original.api_key, original.one_of_each_key
            self.intercom_secret = original.intercom_secret
            self.hs256_secrets = original.hs256_secrets
            # copyfile and not copy2: another machine's files have another time, and that must make no difference.
            shutil.copytree(original.folder / "keys", self.folder / "keys", copy_function=shutil.copyfile)
            for key in self.folder.glob("keys/*/*.key"):
                key.chmod(0o600)
            self._write_private("intercom.secret", (original.folder / "intercom.secret").read_text())
        for name, secret in self.hs256_secrets.items():
            self._write_private(f"{name}.secret", secret + "\n")
        self.config.write_text(configuration(self.listen, token_url, self.api_key, self.one_of_each_key))

    def again(self, folder):
        return Deployment(folder, self.token_url, original=self)

    def _make_keys(self):
        for keyset, kid in KIDS.items():
            key = self.folder / "keys" / keyset / f"{kid}.key"
            key.parent.mkdir(parents=True)
            command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
            subprocess.run(command, check=True, capture_output=True)
            key.chmod(0o600)

    def _write_private(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)


class Service:
    """A running `tokenmint serve`, as a caller sees it."""

    def __init__(self, binary, deployment):
        self.binary, self.deployment, self.url = binary, deployment, deployment.url
        self.log = deployment.folder / "tokenmint.log"
        self.process = None

    def start(self, probe="/readyz"):
        """Returns once the path `probe` answers 200."""
        with self.log.open("ab") as log:
            command = [self.binary, "serve", "--config", str(self.deployment.config)]
            # Not in the configuration's folder: its relative paths are relative to the file, not to where we are.
            self.process = subprocess.Popen(
                command, cwd="/", env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        patience = time.monotonic() + 20
        while not self.answers(probe):
            code = self.process.poll()
            if code is not None or time.monotonic() > patience:
                self.kill()
                why = f"did not answer {probe} with 200 after 20 s" if code is None else f"ended with exit code {code}"
                raise AssertionError(f"`tokenmint serve` {why}. Its last words:\n{self.log_tail()}")
            time.sleep(0.05)
        return self

    def answers(self, path):
        try:
            return requests.get(self.url + path, timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def stop(self):
        """As an init system stops it; what it does then is under test too."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running 10 s after SIGTERM:\n{self.log_tail()}") from None
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log_tail()}"

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log_tail(self, lines=15):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def run(self, *arguments):
        """Another command of the same binary: what it prints, as bytes."""
        ran = subprocess.run([self.binary, *arguments], cwd="/", env=environment(), capture_output=True, timeout=30)
        assert ran.returncode == 0, f"tokenmint {' '.join(arguments)}: {ran.returncode}\n{ran.stderr.decode()}"
        return ran.stdout

    def jwks_url(self, keyset=None):
        """One keyset's address, or the union's."""
        return f"{self.url}/keysets/{keyset}/jwks.json" if keyset else f"{self.url}/.well-known/jwks.json"

    def jwks(self, keyset=None):
        answer = requests.get(self.jwks_url(keyset), timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["keys"]

    def post(self, path, body=None, **options):
        """One request with the caller's API key; headers given here win, and None takes one away."""
        headers = {"Authorization": f"Bearer {self.deployment.api_key}"} | options.pop("headers", {})
        return requests.post(self.url + path, json=body, headers=headers, timeout=10, **options)

    def mint(self, path, **body):
        answer = self.post(path, body)
        assert answer.status_code == 200, f"POST {path} {body}: {answer.status_code} {answer.text}"
        return answer.json()
