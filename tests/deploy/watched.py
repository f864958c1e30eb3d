"""A tokenmint that has done once all that it counts, with a Salesforce of its own sandbox's, and its metrics then."""

import secrets
import subprocess
import time

import requests
from service import Service, environment, free_port, sha256
from stores import SEAL_KEY, Transit


class Deployment:
    """One profile of each kind that is exchanged; a key that signs, one that is to come; and little patience."""

    def __init__(self, folder, binary):
        self.folder = folder
        self.config = folder / "tokenmint.toml"
        self.listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.listen}"
        self.sandbox = f"http://127.0.0.1:{free_port()}"
        self.api_key, self.trial_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.config.write_text(f"""
[server]
listen = "{self.listen}"
state_directory = "state"
[server.limits]
remint_burst = 2
remints_per_minute = 1
[keysets.web]
directory = "keys/web"
[keysets.crm]
directory = "keys/crm"
[identity.web]
keyset = "web"
issuer = "intercom.com"
[identity.web.messaging]
scrt_url = "{self.sandbox}"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.made.up"
username = "integration@acme.example"
audience = "https://login.salesforce.com"
token_url = "{self.sandbox}/services/oauth2/token"
[issuers.own]
issuer = "intercom.com"
audience = ["nobody"]
jwks_url = "{self.url}/keysets/web/jwks.json"
[callers.rails-web]
api_key_sha256 = ["{sha256(self.api_key)}"]
allow = ["identity.web", "oauth.crm"]
subjects_per_minute = 2
[callers.on-trial]
api_key_sha256 = ["{sha256(self.trial_key)}"]
allow = ["identity.web"]
subjects = "nobody"
policy = "audit"
[callers.workload]
jwt_issuer = "own"
jwt_claims = {{ sub = ["workload"] }}
allow = ["identity.web"]
""")
        commands = ["new WebAppKey1 --keyset web", "new CrmKey1 --keyset crm", "rotate --keyset web"]
        for command in commands:
            run = [binary, "keys", *command.split(), "--config", self.config]
            subprocess.run(run, check=True, capture_output=True, env=environment())


def use_a_store(deployment, binary, store):
    """Has the store seal the key of `crm`, and make the next one, which signs there."""
    token = deployment.folder / "vault-token"
    token.touch(mode=0o600)
    token.write_text(store.root)
    directory = 'directory = "keys/crm"\n'
    text = deployment.config.read_text().replace(directory, f'{directory}sealed_by = "vault"\nseal_key = "{SEAL_KEY}"\nsigned_by = "vault"\n')
    section = f'[stores.vault]\nkind = "vault"\naddress = "{store.address}"\ntoken_file = "vault-token"\n'
    deployment.config.write_text(text + section)
    for command in ("seal CrmKey1 --keyset crm", "rotate --keyset crm"):
        run = [binary, "keys", *command.split(), "--config", deployment.config]
        subprocess.run(run, check=True, capture_output=True, env=environment())


def exercised(binary, folder):
    deployment = Deployment(folder, binary)
    (folder / "bao").mkdir()
    store = Transit(folder / "bao")
    service = Service(str(binary), deployment)
    listen = deployment.sandbox.removeprefix("http://")
    command = [binary, "sandbox", "--config", deployment.config, "--listen", listen, "--jwks-base", deployment.url]
    sandbox = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        use_a_store(deployment, binary, store)
        service.start()
        patience = time.monotonic() + 20
        while not answers(f"{deployment.sandbox}/__sandbox/state") and time.monotonic() < patience:
            time.sleep(0.1)
        service.mint("/oauth-access-token")
        service.mint("/messaging-access-token", sub="user-1")
        # As the page of a user whose token is refused.
        statuses = [service.post("/identity-token", {"sub": "user-2"}).status_code for _ in range(5)]
        assert 429 in statuses
        assert service.post("/identity-token", {"sub": "user-3"}).status_code == 429
        on_trial = {"Authorization": f"Bearer {deployment.trial_key}"}
        assert service.post("/identity-token", {"sub": "user-1"}, headers=on_trial).status_code == 200
        # A JWT of a known issuer that isn't for tokenmint. The issuer is the service itself, which has its keys.
        foreign = {"Authorization": "Bearer " + service.post("/identity-token", {"sub": "user-1"}, headers=on_trial).json()["token"]}
        assert service.post("/identity-token", {"sub": "user-1"}, headers=foreign).status_code == 401
        patience = time.monotonic() + 20
        while "tokenmint_issuer_keys_age_seconds{" not in metrics_of(service) and time.monotonic() < patience:
            time.sleep(0.2)
        service.jwks("web")
        return metrics_of(service)
    finally:
        sandbox.kill()
        sandbox.wait()
        service.kill()
        store.stop()


def metrics_of(service):
    return requests.get(f"{service.url}/metrics", timeout=10).text


def answers(url):
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False
