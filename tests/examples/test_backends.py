"""Each web backend in examples/, as its user meets it: sign in, page, refresh route, tokenmint away, sign out."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import time

import pytest
from apps import EXAMPLES, REFUSED, STAND_IN_KEY, App, assert_logged, assert_never_stored, refusals
from verify import assert_tokens_of

HOSTILE = "</script><b>\"'&amp;<!--<script>{{7*7}}<%= 7*7 %>${7*7}"


def test_page_holds_both_tokens_of_the_signed_in_user(app, service):
    page = app.visitor("user-4711").page()
    assert "Signed in as user-4711" in page.text
    assert_tokens_of("user-4711", page.tokens["tokens"], service)
    assert set(page.tokens) == {"tokens", "expires_at", "expires_in", "renew_at"}
    settings = page.settings
    assert settings["user_id"] == "user-4711"
    assert {name: settings[name] for name in page.tokens["tokens"]} == page.tokens["tokens"]


def test_refresh_route_gives_new_tokens(app, service):
    browser = app.visitor("user-1")
    answer = browser.get("/chat-tokens")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert_never_stored(answer)
    assert_tokens_of("user-1", answer.json()["tokens"], service)
    assert answer.json()["renew_at"] < answer.json()["expires_at"]


def test_browser_helper_is_served(app):
    """As the file in examples/browser is; the page of somebody who is signed in loads it."""
    answer = app.visitor().get("/tokenmint.js")
    assert answer.status_code == 200
    assert re.match(r"(text|application)/javascript\b", answer.headers["Content-Type"])
    assert answer.content == (EXAMPLES / "browser" / "tokenmint.js").read_bytes()
    page = app.visitor("user-1").page()
    [module] = [text for attributes, text in page.scripts if attributes.get("type") == "module"]
    assert 'from "/tokenmint.js"' in module


def test_no_session_no_token(app):
    browser = app.visitor()
    assert not browser.page().has_tokens
    assert "eyJ" not in browser.page().source
    refused = browser.get("/chat-tokens")
    assert refused.status_code == 401
    assert "eyJ" not in refused.text
    assert_never_stored(refused)


def test_subject_is_never_the_browsers_word(app, service):
    """The `sub` of somebody else, wherever a browser can put one."""
    browser = app.visitor("mallory")
    names = ["sub", "user", "user_id", "id", "session[user]"]
    other = dict.fromkeys(names, "victim")
    for name in ("sub", "user", "user_id"):
        browser.cookies.set(name, "victim")
    headers = dict.fromkeys(["Sub", "X-Sub", "X-User", "X-User-Id", "X-Forwarded-User", "Remote-User"], "victim")
    more = {"params": other, "headers": headers}
    for body in ({"json": other}, {"data": other}, {}):
        assert_tokens_of("mallory", browser.page(**more, **body).tokens["tokens"], service)
        assert_tokens_of("mallory", browser.get("/chat-tokens", **more, **body).json()["tokens"], service)
        assert browser.post("/chat-tokens", **more, **body).status_code in (404, 405)

    nobody = app.visitor()
    assert nobody.get("/chat-tokens", **more, json=other).status_code == 401
    assert not nobody.page(**more, json=other).has_tokens


def test_forged_session_is_no_session(app):
    """One character of the session's cookies changed, at each of several places."""
    cookies = app.visitor("user-1").cookies.get_dict()
    assert cookies
    for name, value in cookies.items():
        for position in (0, len(value) // 2, len(value) - 8):
            other = "A" if value[position] != "A" else "B"
            forged = app.visitor()
            forged.cookies.update(cookies | {name: value[:position] + other + value[position + 1 :]})
            assert forged.get("/chat-tokens").status_code == 401, f"{name} changed at {position}"


def test_session_cookie_is_out_of_reach(app):
    """Of scripts and of other sites' requests."""
    for cookie in app.visitor("user-1").cookies:
        flags = {name.lower(): value for name, value in cookie._rest.items()}
        assert "httponly" in flags, cookie.name
        assert flags["samesite"].lower() == "lax", cookie.name


def test_sign_out(app):
    browser = app.visitor("user-1")
    assert browser.page().has_tokens
    assert browser.submit("/logout").status_code == 303
    assert not browser.page().has_tokens
    assert browser.get("/chat-tokens").status_code == 401


def test_sign_out_by_a_link_is_not_possible(app):
    browser = app.visitor("user-1")
    assert browser.get("/logout").status_code in (404, 405)
    assert browser.get("/login", params={"user": "victim"}).status_code in (404, 405)
    assert browser.get("/chat-tokens").status_code == 200


def test_empty_user_is_not_signed_in(app):
    browser = app.visitor("")
    assert not browser.page().has_tokens
    assert browser.get("/chat-tokens").status_code == 401


@pytest.mark.parametrize("user", [HOSTILE, "Zoë 漢字 😀", "4711"])
def test_any_user_id_is_kept_and_breaks_nothing(app, service, user):
    page = app.visitor(user).page()
    assert_tokens_of(user, page.tokens["tokens"], service)
    assert page.settings["user_id"] == user
    assert f"Signed in as {' '.join(user.split())}" in page.text
    assert "b" not in page.tags
    assert [tag for tag in page.tags if tag == "script"] == ["script"] * len(page.scripts)
    assert len(page.scripts) == len(app.visitor("plain").page().scripts)
    assert "<!--<script>" not in page.source


def test_users_at_one_time_get_their_own(app, service):
    users = [f"user-{number}" for number in range(8)]
    browsers = [app.visitor(user) for user in users]

    def load(browser):
        return [browser.get("/chat-tokens").json()["tokens"], browser.page().tokens["tokens"]]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for user, got in zip(users, pool.map(load, browsers), strict=True):
            for tokens in got:
                assert_tokens_of(user, tokens, service)


@contextlib.contextmanager
def away(service, how):
    """tokenmint does not answer (stopped), or is not there (killed)."""
    if how == "stopped":
        os.kill(service.process.pid, signal.SIGSTOP)
        # On a busy machine it may answer once more before it stands still.
        os.waitid(os.P_PID, service.process.pid, os.WSTOPPED)
    else:
        service.kill()
    try:
        yield
    finally:
        if how == "stopped":
            os.kill(service.process.pid, signal.SIGCONT)
        else:
            service.start()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_page_loads_without_tokenmint(app, service, how):
    browser = app.visitor("user-1")
    assert browser.page().has_tokens
    with away(service, how):
        began = time.monotonic()
        page = browser.page()
        assert time.monotonic() - began < 2
        assert "Signed in as user-1" in page.text
        assert page.tokens is None
        # As a guest: with a user_id and no JWT, Intercom would refuse the visitor.
        assert page.settings.keys() == {"api_base", "app_id"}

        began = time.monotonic()
        answer = browser.get("/chat-tokens")
        assert time.monotonic() - began < 2
        assert (answer.status_code, answer.content) == (204, b"")
        assert_never_stored(answer)
        assert app.visitor().get("/chat-tokens").status_code == 401
    assert_tokens_of("user-1", browser.page().tokens["tokens"], service)
    assert browser.get("/chat-tokens").status_code == 200


def test_one_request_to_tokenmint_with_the_key_and_the_subject(app_on_a_bad_day, stand_in):
    browser = app_on_a_bad_day.visitor("user-1")
    assert stand_in.heard == []
    browser.page()
    assert stand_in.heard == [("/bundle", f"Bearer {STAND_IN_KEY}", {"sub": "user-1"})]
    browser.get("/chat-tokens")
    assert len(stand_in.heard) == 2


def trickle(handler):
    """One byte now and then: each read is quick, and the answer takes ten seconds."""
    handler.send_response(200)
    handler.send_header("Content-Length", "40")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.25)


def cut(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"tokens": {')
    handler.close_connection = True


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(trickle, id="trickle"),
        pytest.param(cut, id="cut"),
        pytest.param((200, {}, b"<html>SECRET-DESCRIPTION</html>"), id="no JSON"),
        pytest.param((200, {}, b"\xff\xfe\x00"), id="no text"),
        pytest.param((403, {}, REFUSED), id="403"),
        pytest.param((401, {"WWW-Authenticate": "Bearer"}, REFUSED), id="401"),
        pytest.param((503, {"Retry-After": "1"}, REFUSED), id="503"),
        pytest.param((500, {}, b""), id="500"),
    ],
)
def test_page_loads_when_tokenmint_has_a_bad_day(app_on_a_bad_day, stand_in, answer):
    stand_in.answer = answer
    browser = app_on_a_bad_day.visitor("user-1")
    began = time.monotonic()
    page = browser.page()
    assert time.monotonic() - began < 2
    assert page.tokens is None
    refreshed = browser.get("/chat-tokens")
    assert time.monotonic() - began < 4
    assert (refreshed.status_code, refreshed.content) == (204, b"")
    assert_never_stored(refreshed)
    assert "SECRET-DESCRIPTION" not in app_on_a_bad_day.said()
    assert "tokenmint: no tokens, " in app_on_a_bad_day.said()


def test_refusal_is_logged_with_its_error_and_its_request_id(app, service, tmp_path):
    """And tokenmint's own log has that id."""
    refused = App(app.name, tmp_path, service.url, "a-wrong-key")
    try:
        refused.wait()
        browser = refused.visitor("user-1")  # signs in and reads no page with tokens
        assert refusals(refused.said()) == []
        assert browser.page().tokens is None
        assert browser.get("/chat-tokens").status_code == 204
        logged = refusals(refused.said())
        assert [(status, said["error"]) for status, said in logged] == [("401", "invalid_client")] * 2
        for _, said in logged:
            assert said.keys() == {"error", "request_id"}
            assert_logged(service, said["request_id"])
        assert "a-wrong-key" not in refused.said()
    finally:
        refused.kill()


@pytest.mark.parametrize(
    ("answer", "logged"),
    [
        pytest.param((403, {}, REFUSED), {"error": "access_denied", "request_id": "4f\nx"}, id="refused"),
        pytest.param((429, {"Retry-After": "7"}, REFUSED), {"error": "access_denied", "request_id": "4f\nx"}, id="429"),
        pytest.param((502, {}, b"<html>SECRET-DESCRIPTION</html>"), {}, id="a proxy's page"),
        pytest.param((500, {}, b"[1]"), {}, id="no object"),
    ],
)
def test_log_line_of_a_refusal_has_no_more_than_that(app_on_a_bad_day, stand_in, answer, logged):
    stand_in.answer = answer
    browser = app_on_a_bad_day.visitor("user-1")
    already = len(app_on_a_bad_day.said())
    assert browser.page().tokens is None
    said = app_on_a_bad_day.said()[already:]
    assert refusals(said) == [(str(answer[0]), logged)]
    assert "SECRET-DESCRIPTION" not in said


def test_too_many_requests_are_passed_on(app_on_a_bad_day, stand_in):
    stand_in.answer = (429, {"Retry-After": "7"}, b'{"error": "rate_limited"}')
    browser = app_on_a_bad_day.visitor("user-1")
    assert browser.page().tokens is None
    answer = browser.get("/chat-tokens")
    assert (answer.status_code, answer.headers["Retry-After"], answer.content) == (429, "7", b"")
    assert_never_stored(answer)


def test_json_element_cannot_be_broken_out_of(app_on_a_bad_day, stand_in):
    """Tokens hold no markup; should an answer ever do, it stays text."""
    body = {"tokens": {"intercom_user_jwt": HOSTILE, "salesforce_identity_token": "</script><b>"}, "renew_at": 1}
    stand_in.answer = (200, {"Content-Type": "application/json"}, json.dumps(body).encode())
    page = app_on_a_bad_day.visitor("user-1").page()
    assert page.tokens == body
    assert page.settings["intercom_user_jwt"] == HOSTILE
    assert "b" not in page.tags


def test_key_that_is_no_header_is_not_shown(app, service, tmp_path):
    """A key with a line's end in it, as a careless secret has: HTTP clients quote it in their errors."""
    broken = App(app.name, tmp_path, service.url, "SECRET-KEY\nwith-a-second-line")
    try:
        broken.wait()
        browser = broken.visitor("user-1")
        assert browser.page().tokens is None
        assert browser.get("/chat-tokens").status_code == 204
        assert "tokenmint: no tokens, " in broken.said()
        assert "SECRET-KEY" not in broken.said()
        assert "second-line" not in broken.said()
    finally:
        broken.kill()


def test_no_token_and_no_key_in_any_log(app, service):
    browser = app.visitor("user-1")
    tokens = [*browser.page().tokens["tokens"].values(), *browser.get("/chat-tokens").json()["tokens"].values()]
    for secret in [service.deployment.api_key, service.deployment.intercom_secret, *tokens]:
        for part in (secret, secret.rpartition(".")[2]):
            assert part not in app.said()
            assert part not in service.log.read_text()
    assert not re.search(r"eyJ[\w-]{20}", app.said())
