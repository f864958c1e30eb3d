"""The recipes of docs/integrate/oauth-clients.md, as processes that make queries."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from service import HERE, REPO, TOOLS, Deployment, environment, free_port, sha256
from tls_front import TlsFront, trusting

PAGE = REPO / "docs" / "integrate" / "oauth-clients.md"
QUERY = "SELECT Id, Name FROM Account LIMIT 1"
# A block whose first line is a comment with a file's name. The rest of the block is the file.
BLOCKS = re.compile(r"^```\w+\n(?:#|//) ([\w.-]+\.(?:mjs|py|rb|sh|go))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = dict(BLOCKS.findall(PAGE.read_text()))
DRIVERS = {
    ".py": [sys.executable, str(HERE / "recipes" / "driver.py")],
    ".mjs": ["node", str(HERE / "recipes" / "driver.mjs")],
    ".rb": ["ruby", str(HERE / "recipes" / "driver.rb")],
}
# Seconds until an answer: 200 processes that start at once share two cores.
PATIENCE = 300


class Recipe:
    """A process that runs one recipe: `command`, or the driver of its language."""

    def __init__(self, name, salesforce, code=None, command=None, **settings):
        self.folder = salesforce.folder / "recipes"
        self.folder.mkdir(exist_ok=True)
        modules = self.folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(TOOLS / "node" / "node_modules")
        file = self.folder / name
        file.write_text(code or CODE[name])
        self.process = subprocess.Popen(
            command or [*DRIVERS[file.suffix], str(file)],
            env=salesforce.settings() | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        salesforce.running.append(self.process)
        self.is_ready = False

    def wait_until_ready(self):
        """Until the process has started. It has not asked for a token then."""
        if not self.is_ready:
            assert self.result() == "ready"
            self.is_ready = True

    def send(self, soql=QUERY):
        self.process.stdin.write(soql + "\n")
        self.process.stdin.flush()

    def result(self):
        stop = threading.Timer(PATIENCE, self.process.kill)
        stop.start()
        line = self.process.stdout.readline()
        stop.cancel()
        assert line, f"{self.process.args[-1]} ended without an answer"
        return json.loads(line)

    def query(self, soql=QUERY):
        self.wait_until_ready()
        self.send(soql)
        return self.result()


def records(result):
    assert "records" in result, result
    return [record["Id"] for record in result["records"]]


def query_at_once(recipes):
    """The results of all recipes, none of which waits for another."""
    for recipe in recipes:
        recipe.wait_until_ready()
    for recipe in recipes:
        recipe.send()
    with ThreadPoolExecutor(len(recipes)) as threads:
        return list(threads.map(Recipe.result, recipes))


class Salesforce:
    """tokenmint and the sandbox, both behind TLS, as the recipes see them in production."""

    # Clients encode these characters differently in HTTP Basic and in a form.
    API_KEY = "the key: 100%41 + more/="

    def __init__(self, folder, ca_file, certificate, run_service, more=""):
        self.folder, self.ca_file = folder, ca_file
        self.running, self.sandbox = [], None
        self.plain = f"http://127.0.0.1:{free_port()}"
        self.front = TlsFront(certificate, int(self.plain.rpartition(":")[2]))
        self.deployment = Deployment(folder / "deployment", f"{self.front.url}/services/oauth2/token")
        self.tokenmint = TlsFront(certificate, int(self.deployment.listen.rpartition(":")[2]))
        text = self.deployment.config.read_text()
        text = text.replace('assertion_ttl = "150s"', 'assertion_ttl = "150s"\ncheck_session = "1s"')
        text = text.replace("[server]", f'[server]\nurl = "{self.tokenmint.url}"')
        digest = sha256(self.API_KEY)
        text += f'\n[callers.jobs]\napi_key_sha256 = ["{digest}"]\nallow = ["oauth.crm"]\n'
        digest = sha256("page-key")
        text += f'\n[callers.page]\napi_key_sha256 = ["{digest}"]\nallow = ["identity.web"]\n{more}'
        self.deployment.config.write_text(text.replace("TOKENMINT", self.tokenmint.url))
        with patched_environment(trusting(ca_file)):
            self.service = run_service(self.deployment)
        command = [self.service.binary, "sandbox", "--config", str(self.deployment.config)]
        command += ["--listen", self.plain.removeprefix("http://"), "--jwks-base", self.deployment.url]
        self.sandbox = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.set(url=self.front.url)
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline, "no sandbox"
                time.sleep(0.05)

    def settings(self):
        """The environment of a recipe."""
        own = {"TOKENMINT_URL": self.tokenmint.url, "TOKENMINT_API_KEY": self.API_KEY, "NODE_NO_WARNINGS": "1"}
        return environment() | trusting(self.ca_file) | own

    def set(self, **settings):
        self._control("settings", settings)

    def end_sessions(self):
        self._control("expire-sessions", {})

    def _control(self, what, body):
        requests.post(f"{self.plain}/__sandbox/{what}", json=body, timeout=5).raise_for_status()

    def logins(self):
        return sum(self.counts()["logins"].values())

    def counts(self):
        return requests.get(f"{self.plain}/__sandbox/state", timeout=5).json()["counts"]

    def close(self):
        for process in self.running:
            process.kill()
            process.wait()
        # Not `stop`, which waits for open connections.
        self.service.kill()
        if self.sandbox:
            self.sandbox.terminate()
            assert self.sandbox.wait(timeout=10) == 0
        for front in (self.front, self.tokenmint):
            front.close()


@contextlib.contextmanager
def patched_environment(settings):
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
