"""What the tests run: tokenmint's deployment, each example as its user starts it, and a tokenmint that misbehaves."""

import contextlib
import html.parser
import http.server
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time

import requests
from service import REPO, TOOLS, free_port, sha256

EXAMPLES = REPO / "examples"
INSTALLED = TOOLS / "examples"
ISSUER = "intercom.com"
AUDIENCE = "https://acme.my.salesforce-scrt.com"
KID = "WebAppKey1"
STAND_IN_KEY = "key-for-the-stand-in"

# How its user starts it, in its own folder. {port}: free; the others take it from PORT.
COMMANDS = {
    "rails": ["ruby", "bin/rails", "server"],
    "sinatra": ["ruby", "app.rb"],
    "express": ["node", "app.js"],
    "fastapi": [str(INSTALLED / "venv" / "bin" / "python"), "-m", "uvicorn", "app:app", "--port", "{port}"],
}


class Deployment:
    """A folder with all that `serve --config` needs for the bundle of one page load."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = self.folder / "tokenmint.toml"
        listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{listen}"
        self.api_key, self.intercom_secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        key = self.folder / "keys" / f"{KID}.key"
        key.parent.mkdir(parents=True)
        command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key)]
        subprocess.run(command, check=True, capture_output=True)
        key.chmod(0o600)
        secret = self.folder / "intercom.secret"
        secret.touch(mode=0o600)
        secret.write_text(self.intercom_secret)
        self.config.write_text(f"""
[server]
listen = "{listen}"
state_directory = "state"

[keysets.web]
directory = "keys"

[identity.web]
keyset = "web"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"

[intercom.fin]
secret_file = "intercom.secret"

[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"

[callers.app]
api_key_sha256 = ["{sha256(self.api_key)}"]
allow = ["identity.web", "intercom.fin", "bundles.fin"]
""")


# An answer whose log line must stay one line, without the description.
REFUSED = json.dumps(
    {"error": "access_denied", "error_description": "SECRET-DESCRIPTION", "request_id": "4f\nx"}
).encode()


def refusals(log):
    """The status, and what else an example has logged, of each answer without tokens."""
    found = re.findall(r": no tokens, HTTP (\d+) (\{.*?\})", log)
    return [(status, {name: value for name, value in json.loads(said).items() if value is not None}) for status, said in found]


def assert_logged(service, text):
    """The service writes its log in the background, so the text may come after the answer."""
    patience = time.monotonic() + 10
    while text not in service.log.read_text():
        assert time.monotonic() < patience, f"the log has no {text}"
        time.sleep(0.02)


def environment(**more):
    """Ours without TOKENMINT_*, so that an example gets what a test gives it; and without a proxy to loopback."""
    ours = {n: v for n, v in os.environ.items() if not n.startswith("TOKENMINT_") and not n.lower().endswith("_proxy")}
    return ours | more


class App:
    """One of the examples, running, for one tokenmint."""

    def __init__(self, name, folder, tokenmint_url, api_key):
        self._copy(name, folder)
        command = [word.format(port=self.port) for word in COMMANDS[name]]
        settings = {"TOKENMINT_URL": tokenmint_url, "TOKENMINT_API_KEY": api_key, "SESSION_SECRET": secrets.token_hex(64)}
        self._start(command, self.folder, settings)

    @classmethod
    def pasted(cls, name, folder, line):
        """Started by a line for a shell in the repository's folder, with what the example needs installed."""
        app = cls.__new__(cls)
        app._copy(name, folder)
        path = f"{INSTALLED / 'venv' / 'bin'}:{os.environ['PATH']}"
        app._start(["bash", "-c", line], folder, {"PATH": path, "UVICORN_PORT": app.port})
        return app

    def _copy(self, name, folder):
        """Its packages must lie beside it, and must not lie in the repository."""
        self.name = name
        shutil.copytree(EXAMPLES, folder / "examples")
        self.folder = folder / "examples" / name
        if name == "express":
            (self.folder / "node_modules").symlink_to(INSTALLED / "node" / "node_modules")
        self.port = str(free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "app.log"

    def _start(self, command, folder, settings):
        settings = environment(PORT=self.port, **settings)
        with self.log.open("ab") as log:
            # In a session of its own, so that what a shell has started ends with it.
            self.process = subprocess.Popen(
                command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self):
        patience = time.monotonic() + 20
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(self.url, timeout=5)
                return self
            if self.process.poll() is not None or time.monotonic() > patience:
                raise AssertionError(f"{self.name} doesn't run. Its log:\n{self.said()}")
            time.sleep(0.05)

    def said(self):
        return self.log.read_text(errors="replace")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def visitor(self, user=None):
        """A browser, signed in as `user`."""
        browser = Browser(self.url)
        if user is not None:
            answer = browser.submit("/login", user=user)
            assert (answer.status_code, answer.headers["Location"].removeprefix(self.url)) == (303, "/"), answer.text
        return browser


class Browser(requests.Session):
    def __init__(self, url):
        super().__init__()
        self.url, self.trust_env = url, False

    def request(self, method, path, **options):
        return super().request(method, self.url + path, **{"timeout": 10, "allow_redirects": False} | options)

    def submit(self, action, **fields):
        """The page's form, with what it holds against forgery."""
        return self.post(action, data=self.page().hidden | fields)

    def page(self, **options):
        answer = self.get("/", **options)
        assert answer.status_code == 200, answer.text
        assert_never_stored(answer)
        assert answer.headers["Content-Type"].startswith("text/html")
        return Page(answer.text)


def assert_never_stored(answer):
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers
    assert "Last-Modified" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


class Page(html.parser.HTMLParser):
    """A page as a browser sees it: its elements, text and scripts, and the settings that those leave for Intercom."""

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.words, self.scripts, self.hidden = source, [], [], [], {}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        entry = dict(attributes)
        if tag == "input" and entry.get("type") == "hidden":
            self.hidden[entry["name"]] = entry.get("value", "")
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    @property
    def has_tokens(self):
        return any(attributes.get("id") == "chat-tokens" for attributes, _ in self.scripts)

    @property
    def tokens(self):
        """What the JSON element holds."""
        [text] = [text for attributes, text in self.scripts if attributes.get("id") == "chat-tokens"]
        return json.loads(text)

    @property
    def settings(self):
        """window.intercomSettings after the page's own scripts have run."""
        [element] = [text for attributes, text in self.scripts if attributes.get("id") == "chat-tokens"]
        script = "\n".join(text for attributes, text in self.scripts if not attributes)
        program = """
            const [element, script] = JSON.parse(require("fs").readFileSync(0, "utf8"));
            const document = { getElementById: (id) => (id === "chat-tokens" ? { textContent: element } : null) };
            const window = {};
            require("vm").runInNewContext(script, { document, window });
            process.stdout.write(JSON.stringify(window.intercomSettings));
        """
        ran = subprocess.run(
            ["node", "-e", program], input=json.dumps([element, script]), capture_output=True, text=True, timeout=20
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


class StandIn:
    """What answers in tokenmint's place on a bad day. `answer` is what it does; `heard` is what it got."""

    def __init__(self):
        self.heard = []
        self.answer = (200, {}, b"{}")
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                owner.heard.append((self.path, self.headers.get("Authorization"), json.loads(self.rfile.read(length))))
                with contextlib.suppress(OSError):
                    if callable(owner.answer):
                        owner.answer(self)
                    else:
                        status, headers, body = owner.answer
                        self.send_response(status)
                        for name, value in ({"Content-Length": str(len(body))} | headers).items():
                            self.send_header(name, value)
                        self.end_headers()
                        self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
