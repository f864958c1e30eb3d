"""examples/*/oidc: the users log in at an identity provider, and their ID tokens name them to tokenmint."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import subprocess
import time
import urllib.parse

import jwt
import pytest
import requests
from apps import INSTALLED, App, Browser, Deployment, Page, assert_never_stored, environment, refusals
from service import TOOLS, Service, free_port, sha256
from test_backends import away
from verify import assert_tokens_of

COMMANDS = {"express": ["node", "app.js"], "fastapi": [str(INSTALLED / "venv/bin/python"), "-m", "uvicorn", "app:app", "--port", "{port}"]}
# The default of each library.
AUTHENTICATION = {"express": "client_secret_post", "fastapi": "client_secret_basic"}
SECRET = "the-secret-of-the-client-at-the-provider"


class IdentityProvider:
    def __init__(self, folder, redirect_uris):
        self.port = free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", folder / "provider.log"
        clients = {
            name: {
                "client_secret": SECRET,
                "redirect_uris": uris,
                "grant_types": ["authorization_code", "refresh_token"],
                "token_endpoint_auth_method": AUTHENTICATION[name],
            }
            for name, uris in redirect_uris.items()
        }
        command = ["node", "provider.mjs", str(TOOLS / "node/node_modules"), str(self.port), json.dumps(clients)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=pathlib.Path(__file__).parent, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(lambda: self.process.poll() is not None or self.is_listening(), "the identity provider")
        assert self.process.poll() is None, self.log.read_text()

    def is_listening(self):
        with contextlib.suppress(requests.ConnectionError):
            return self.state() is not None

    def state(self):
        return requests.get(f"{self.url}/test", timeout=10).json()

    def set(self, **settings):
        requests.post(f"{self.url}/test", json=settings, timeout=10).raise_for_status()

    def revoke_refresh_tokens(self):
        requests.delete(f"{self.url}/test", timeout=10).raise_for_status()

    def kill(self):
        self.process.kill()
        self.process.wait()


class OidcApp(App):
    def __init__(self, name, folder, port, provider_url, tokenmint_url, api_key):
        self._copy(name, folder)
        if name == "express":
            (self.folder / "node_modules").unlink()
            (self.folder / "oidc/node_modules").symlink_to(INSTALLED / "node-oidc/node_modules")
        self.port, self.url = str(port), f"http://127.0.0.1:{port}"
        settings = {"TOKENMINT_URL": tokenmint_url, "TOKENMINT_API_KEY": api_key, "SESSION_SECRET": "x" * 64}
        settings |= {"OIDC_ISSUER": provider_url, "OIDC_CLIENT_ID": name, "OIDC_CLIENT_SECRET": SECRET, "APP_URL": self.url}
        self._start([word.format(port=port) for word in COMMANDS[name]], self.folder / "oidc", settings)

    def visitor(self, user=None):
        visitor = Visitor(self.url)
        if user is not None:
            visitor.log_in(user)
        return visitor


class Visitor(Browser):
    """A browser that goes to the identity provider too."""

    def request(self, method, path, **options):
        options |= {"timeout": 10, "allow_redirects": False}
        return requests.Session.request(self, method, urllib.parse.urljoin(self.url, path), **options)

    def log_in(self, user=None, start="/login"):
        """Follows the redirects from `start` to the page, and fills the provider's forms. Without `user` there must be none."""
        answer = self.get(start)
        for _ in range(20):
            if answer.is_redirect:
                answer = self.get(urllib.parse.urljoin(answer.url, answer.headers["Location"]))
            elif answer.url == f"{self.url}/":
                return answer
            else:
                assert user is not None, f"{answer.status_code} of {answer.url}: {answer.text}"
                [action] = re.findall(r'<form [^>]*action="([^"]+)"', answer.text)
                answer = self.post(action, data=Page(answer.text).hidden | {"login": user, "password": "any"})
        raise AssertionError(f"the login doesn't end: {answer.url}")


def wait_for(condition, what):
    """What `condition` returns once that is neither None nor False. (An answer of an error status is falsy.)"""
    patience = time.monotonic() + 30
    while (found := condition()) is None or found is False:
        assert time.monotonic() < patience, f"after 30 s: {what}"
        time.sleep(0.05)
    return found


class OidcDeployment(Deployment):
    """Each app is a caller, and must bring the ID tokens of its own client."""

    def __init__(self, folder, provider_url):
        super().__init__(folder)
        self.api_keys = {name: f"key-of-{name}-{self.api_key}" for name in COMMANDS}
        base = self.config.read_text().partition("[callers.app]")[0]
        # The tests poll: a subject asks more often than any page would.
        limits = "[server.limits]\nremints_per_minute = 1000000\nremint_burst = 1000000\n"
        self.config.write_text(base + limits + "".join(self.caller(name, provider_url) for name in COMMANDS))

    def caller(self, name, provider_url):
        return f"""
[issuers.{name}-login]
issuer = "{provider_url}"
discovery = true
audience = ["{name}"]

[callers.{name}]
api_key_sha256 = ["{sha256(self.api_keys[name])}"]
allow = ["identity.web", "intercom.fin", "bundles.fin"]
subject_token = "required"
subject_issuer = "{name}-login"
"""


@pytest.fixture(scope="module")
def ports():
    """Two for each app: the provider must know its address before it runs."""
    return {name: [free_port(), free_port()] for name in COMMANDS}


@pytest.fixture(scope="module")
def provider(tmp_path_factory, ports):
    uris = {name: [f"http://127.0.0.1:{port}/callback" for port in both] for name, both in ports.items()}
    running = IdentityProvider(tmp_path_factory.mktemp("provider"), uris)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory, provider):
    deployment = OidcDeployment(tmp_path_factory.mktemp("deployment"), provider.url)
    os.environ["RUST_LOG"] = "debug"  # refusals are in its log
    running = Service(str(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()), deployment)
    yield running.start()
    running.kill()


@pytest.fixture(scope="module")
def apps(tmp_path_factory, ports, provider, service):
    running = {}
    try:
        for name, (port, _) in ports.items():
            folder = tmp_path_factory.mktemp(name)
            running[name] = OidcApp(name, folder, port, provider.url, service.url, service.deployment.api_keys[name])
        for app in running.values():
            app.wait()
        yield running
    finally:
        for app in running.values():
            app.kill()


@pytest.fixture(params=list(COMMANDS))
def app(request, apps, provider):
    yield apps[request.param]
    provider.set(idTokenLifetime=7200, failing=False)


def ask(service, name, path, body):
    headers = {"Authorization": f"Bearer {service.deployment.api_keys[name]}"}
    return requests.post(service.url + path, json=body, headers=headers, timeout=10)


def id_token(app, provider, user, **settings):
    """Of a login at the app."""
    provider.set(**settings)
    app.visitor(user)
    return provider.state()["idToken"]


def expiry(tokens):
    return jwt.decode(tokens["salesforce_identity_token"], options={"verify_signature": False})["exp"]


def test_page_and_refresh_route_have_the_tokens_of_the_login(app, service):
    browser = app.visitor("user-4711")
    page = browser.page()
    assert "Signed in as user-4711" in page.text
    assert_tokens_of("user-4711", page.tokens["tokens"], service)
    assert page.settings["user_id"] == "user-4711"
    answer = browser.get("/chat-tokens")
    assert answer.status_code == 200
    assert_never_stored(answer)
    assert_tokens_of("user-4711", answer.json()["tokens"], service)


def test_no_session_no_token(app):
    browser = app.visitor()
    page = browser.page()
    assert not page.has_tokens
    assert "Sign in" in page.text
    assert browser.get("/chat-tokens").status_code == 401
    assert browser.get("/tokenmint.js").status_code == 200


def test_subject_is_never_the_browsers_word(app, service):
    browser = app.visitor("mallory")
    other = dict.fromkeys(["sub", "user", "user_id", "id", "subject_token", "id_token"], "victim")
    for body in ({"json": other}, {"data": other}, {}):
        more = {"params": other, "headers": {"X-User": "victim", "Sub": "victim"}} | body
        assert_tokens_of("mallory", browser.page(**more).tokens["tokens"], service)
        assert_tokens_of("mallory", browser.get("/chat-tokens", **more).json()["tokens"], service)


@pytest.mark.parametrize(("path", "field"), [("/identity-token", "sub"), ("/intercom-user-jwt", "user_id"), ("/bundle", "sub")])
def test_stolen_api_key_names_nobody(app, service, path, field):
    app.visitor("user-1").page()
    for subject in ["user-1", "victim", *(f"user-{number}" for number in range(20))]:
        answer = ask(service, app.name, path, {field: subject})
        assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (400, "invalid_request", "subject_token")
        assert "eyJ" not in answer.text
    assert ask(service, app.name, path, {}).json()["field"] == "subject_token"


def test_id_token_names_its_own_user_at_its_own_client_only(app, provider, service):
    token = id_token(app, provider, "user-1")
    assert ask(service, app.name, "/bundle", {"subject_token": token}).status_code == 200
    assert ask(service, app.name, "/bundle", {"subject_token": token, "sub": "user-1"}).status_code == 200
    assert ask(service, app.name, "/bundle", {"subject_token": token, "sub": "victim"}).status_code == 400
    [other_app] = COMMANDS.keys() - {app.name}
    answer = ask(service, other_app, "/bundle", {"subject_token": token})
    assert (answer.status_code, answer.json()["field"]) == (400, "subject_token")
    assert "aud" in answer.json()["error_description"]


def test_chat_tokens_end_with_the_id_token(app, provider):
    provider.set(idTokenLifetime=600)
    browser = app.visitor("user-1")
    ends = jwt.decode(provider.state()["idToken"], options={"verify_signature": False})["exp"]
    assert expiry(browser.page().tokens["tokens"]) == ends


# The next three wait for an ID token's age, and so have both apps at once.
@pytest.fixture
def all_apps(apps, provider):
    yield list(apps.values())
    provider.set(idTokenLifetime=7200, failing=False)


def test_id_token_is_refreshed_at_half_of_its_life(all_apps, provider):
    """No request of the session meets an anonymous chat or a login, and requests at one time refresh it once."""
    provider.set(idTokenLifetime=8)
    browsers = [app.visitor("user-1") for app in all_apps]
    before = len(provider.state()["grants"])
    provider.set(idTokenLifetime=600)
    soon = time.time() + 60

    def load(browser):
        answer = browser.get("/chat-tokens")
        assert answer.status_code == 200
        return expiry(answer.json()["tokens"])

    assert all(load(browser) < soon for browser in browsers)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        wait_for(lambda: min(pool.map(load, browsers * 8)) > soon, "no refresh")
    for browser in browsers:
        page = browser.page()
        assert page.settings["user_id"] == "user-1"
        assert expiry(page.tokens["tokens"]) > soon
    assert provider.state()["grants"][before:] == ["refresh_token"] * len(browsers)


def test_expired_id_token_leads_to_a_fresh_login(all_apps, provider, service):
    """The provider has revoked the refresh tokens. Its own session still lasts, so that it asks the user nothing."""
    already = [len(app.said()) for app in all_apps]
    provider.set(idTokenLifetime=8)
    browsers = {(app, path): app.visitor(f"user-of-{app.name}") for app in all_apps for path in ("/", "/chat-tokens")}
    provider.revoke_refresh_tokens()
    provider.set(idTokenLifetime=7200)
    ended = {}  # the first answer without tokens

    def load_all():
        for app, path in browsers.keys() - ended.keys():
            answer = browsers[app, path].get(path)
            if answer.status_code != 200 or "eyJ" not in answer.text:
                ended[app, path] = answer
        return len(ended) == len(browsers)

    wait_for(load_all, "there still are tokens")
    for (app, path), answer in ended.items():
        assert_never_stored(answer)
        if path == "/":
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        else:
            assert (answer.status_code, answer.content) == (401, b"")
        browser = browsers[app, path]
        page = Page(browser.log_in(start="/login" if path == "/" else "/").text)
        assert_tokens_of(f"user-of-{app.name}", page.tokens["tokens"], service)
        assert_tokens_of(f"user-of-{app.name}", browser.get("/chat-tokens").json()["tokens"], service)
    for app, start in zip(all_apps, already, strict=True):
        assert "no tokens" not in app.said()[start:]


def test_provider_that_fails_is_asked_again(all_apps, provider):
    """And until then the ID token serves for the next quarter of its life."""
    already = [len(app.said()) for app in all_apps]
    provider.set(idTokenLifetime=12)
    browsers = [app.visitor("user-1") for app in all_apps]
    soon = time.time() + 60
    provider.set(failing=True, idTokenLifetime=600)

    def all_have_failed():
        assert all(expiry(browser.page().tokens["tokens"]) < soon for browser in browsers)
        return all("login: no refresh, " in app.said()[start:] for app, start in zip(all_apps, already, strict=True))

    wait_for(all_have_failed, "no refresh")
    provider.set(failing=False)
    assert all(expiry(browser.page().tokens["tokens"]) > soon for browser in browsers)


def test_sign_out(app):
    browser = app.visitor("user-1")
    cookies = browser.cookies.copy()
    assert browser.page().has_tokens
    assert browser.post("/logout").status_code == 303
    assert not browser.page().has_tokens
    assert browser.get("/chat-tokens").status_code == 401
    browser.cookies = cookies  # kept by somebody: the server has forgotten the session
    assert browser.get("/chat-tokens").status_code == 401
    assert browser.get("/logout").status_code in (404, 405)


def test_callback_that_no_login_of_this_session_awaits(app):
    """Somebody else's code, for example: the user must not be signed in as that user."""
    other = app.visitor()
    answer = other.get("/login")
    while not answer.headers["Location"].startswith(f"{app.url}/callback"):
        answer = other.get(urllib.parse.urljoin(answer.url, answer.headers["Location"]))
        if not answer.is_redirect:
            [action] = re.findall(r'<form [^>]*action="([^"]+)"', answer.text)
            answer = other.post(action, data=Page(answer.text).hidden | {"login": "mallory", "password": "any"})
    callback = answer.headers["Location"]

    victim = app.visitor()
    for start in (False, True):
        if start:  # with a login of its own in progress
            victim.get("/login")
        answer = victim.get(callback)
        assert answer.status_code == 400
        assert_never_stored(answer)
        assert not victim.page().has_tokens
    assert other.get(callback).status_code == 303
    assert other.page().settings["user_id"] == "mallory"
    assert other.get(callback).status_code == 400  # a second time


def test_login_that_the_user_cancels(app):
    browser = app.visitor()
    location = browser.get("/login").headers["Location"]
    sent = urllib.parse.parse_qs(urllib.parse.urlparse(location).query)
    assert (sent["response_type"], sent["code_challenge_method"], sent["scope"]) == (["code"], ["S256"], ["openid"])
    assert sent["nonce"][0]
    answer = browser.get("/callback", params={"error": "access_denied", "state": sent["state"][0]})
    assert answer.status_code == 400
    assert "Sign in" in browser.page().text


def test_cookies_have_neither_token_nor_id(app, provider):
    browser = app.visitor("user-1")
    cookies = [cookie for cookie in browser.cookies if cookie.name.startswith("session")]
    assert cookies
    for cookie in cookies:
        flags = {name.lower(): value for name, value in cookie._rest.items()}
        assert "httponly" in flags
        assert flags["samesite"].lower() == "lax"
        assert len(cookie.value) < 400
        assert "eyJ" not in cookie.value.removeprefix("eyJ")  # the JSON of the session itself is in base64


def test_page_loads_without_tokenmint(app, service):
    browser = app.visitor("user-1")
    with away(service, "stopped"):
        page = browser.page()
        assert "Signed in as user-1" in page.text
        assert page.tokens is None
        assert browser.get("/chat-tokens").status_code == 204
    assert_tokens_of("user-1", browser.page().tokens["tokens"], service)


def test_log_line_of_a_refusal_names_the_field(app, provider, service, tmp_path, ports):
    """An app whose client isn't in the `audience`: the page loads, without a second login."""
    [other_app] = COMMANDS.keys() - {app.name}
    wrong = OidcApp(app.name, tmp_path, ports[app.name][1], provider.url, service.url, service.deployment.api_keys[other_app])
    try:
        wrong.wait()
        page = wrong.visitor("user-1").page()
        assert page.tokens is None
        assert {(status, said["error"], said["field"]) for status, said in refusals(wrong.said())} == {
            ("400", "invalid_request", "subject_token")
        }
    finally:
        wrong.kill()


def test_no_token_and_no_secret_in_any_log(app, provider, service):
    browser = app.visitor("user-1")
    tokens = [*browser.page().tokens["tokens"].values(), provider.state()["idToken"]]
    for secret in [SECRET, service.deployment.api_keys[app.name], *(token.rpartition(".")[2] for token in tokens)]:
        assert secret not in app.said()
        assert secret not in service.log.read_text()
    assert not re.search(r"eyJ[\w-]{20}", app.said())
