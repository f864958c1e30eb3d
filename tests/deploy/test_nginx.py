"""deploy/nginx: a real nginx with that file, before a running tokenmint."""

import concurrent.futures
import re
import subprocess
import time

import pytest
import requests
from service import REPO, Service, free_port
from watched import Deployment

CONF = REPO / "deploy" / "nginx" / "tokenmint-jwks.conf"
JWKS = "/keysets/web/jwks.json"


class Nginx:
    def __init__(self, program, folder, upstream):
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        tls = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        tls += ["-days", "2", "-subj", "/CN=tokens.example.com"]
        tls += ["-keyout", folder / "tokens.example.com.key", "-out", folder / "tokens.example.com.crt"]
        subprocess.run(tls, check=True, capture_output=True)
        text = CONF.read_text()
        # What belongs to a machine, and nothing else.
        for ours, here in {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "server 127.0.0.1:8443": f"server {upstream}",
            "/etc/nginx/tls/": f"{folder}/",
            "/var/cache/nginx/": f"{folder}/",
        }.items():
            assert ours in text
            text = text.replace(ours, here)
        (folder / "jwks.conf").write_text(text)
        scratch = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        (folder / "nginx.conf").write_text(
            f"user root; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off; {scratch} include {folder}/jwks.conf; }}\n"
        )
        command = [program, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
        tried = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30)
        assert tried.returncode == 0 and "[warn]" not in tried.stderr, tried.stderr
        self.process = subprocess.Popen(command)
        self.session = requests.Session()
        self.session.verify = str(folder / "tokens.example.com.crt")
        patience = time.monotonic() + 20
        while not self.answers() and time.monotonic() < patience:
            time.sleep(0.1)

    def get(self, path, **options):
        # The certificate is another host's than 127.0.0.1: what is tested here isn't its check.
        return self.session.get(self.url + path, timeout=10, verify=False, **options)

    def answers(self):
        try:
            return self.get("/").status_code == 404
        except requests.ConnectionError:
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def service(binary, tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), binary)
    # A JWKS is fresh for a quarter of that: for a second.
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace('directory = "keys/web"', 'directory = "keys/web"\npublish_lead = "4s"'))
    service = Service(str(binary), deployment)
    yield service.start()
    service.kill()


@pytest.fixture(scope="module")
def nginx(installed, service, tmp_path_factory):
    running = Nginx(installed / "bin" / "nginx", tmp_path_factory.mktemp("nginx"), service.deployment.listen)
    yield running
    running.stop()


pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


def fetches(service):
    metrics = requests.get(f"{service.url}/metrics", timeout=10).text
    return sum(int(n) for n in re.findall(r'^tokenmint_jwks_fetches_total\{.*keyset="web"\} (\d+)$', metrics, re.M))


def test_a_thousand_fetches_reach_tokenmint_a_few_times(service, nginx):
    before, began = fetches(service), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # With a query each, as one who wants to get past the cache would.
        answers = list(pool.map(lambda n: nginx.get(f"{JWKS}?{n}"), range(1000)))
    seconds = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {requests.get(service.url + JWKS, timeout=10).text}
    assert answers[0].headers["Cache-Control"] == "public, max-age=1" and answers[0].headers["ETag"]
    # One in a max-age, one more where it falls between two, and the one just above.
    assert fetches(service) - before <= seconds + 3


def test_nothing_but_the_jwks_is_there(service, nginx):
    assert service.post("/identity-token", {"sub": "user-1"}).status_code == 200
    for path in ["/identity-token", "/metrics", "/readyz", "/keysets/web/", f"{JWKS}/x", "/openapi.yaml"]:
        assert nginx.get(path).status_code == 404, path
    assert nginx.get("/keysets/nobody/jwks.json").status_code == 404
    assert nginx.session.post(nginx.url + JWKS, verify=False, timeout=10).status_code == 403


def test_the_jwks_outlives_the_service_and_comes_anew_with_it(service, nginx):
    was = nginx.get(JWKS)
    service.kill()
    # nginx counts whole seconds: well past the one that the JWKS is fresh.
    time.sleep(3)
    for _ in range(20):
        stale = nginx.get(JWKS)
        assert (stale.status_code, stale.text) == (200, was.text)
    assert stale.headers["X-Cache-Status"] in {"STALE", "UPDATING"}

    service.run("keys", "retire", "WebAppKey2", "--now", "--config", str(service.deployment.config))
    service.start()
    patience = time.monotonic() + 10
    while (now := nginx.get(JWKS)).text == was.text and time.monotonic() < patience:
        time.sleep(0.2)
    assert [key["kid"] for key in now.json()["keys"]] == ["WebAppKey1"]
