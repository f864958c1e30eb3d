# Chat tokens of tokenmint on a page of a FastAPI app, for users who log in by OpenID Connect.
#
#   pip install -r requirements.txt
#   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... \
#     OIDC_ISSUER=https://login.example.com OIDC_CLIENT_ID=... OIDC_CLIENT_SECRET=... uvicorn app:app    (README.md has the rest)
import asyncio
import json
import logging
import os
import pathlib
import secrets
import time

import httpx2
from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from joserfc.errors import JoseError
from starlette.middleware.sessions import SessionMiddleware

EXAMPLES = pathlib.Path(__file__).parents[2]
NO_STORE = {"Cache-Control": "no-store"}
APP_URL = os.environ.get("APP_URL", "http://127.0.0.1:8000")
SESSION_LENGTH = 8 * 60 * 60
log = logging.getLogger("uvicorn.error")

app = FastAPI(openapi_url=None)
# A signed cookie, SameSite=Lax. Behind https add: https_only=True
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SESSION_SECRET") or secrets.token_hex(32))
templates = Jinja2Templates(EXAMPLES / "fastapi")
tokenmint = httpx2.AsyncClient(
    base_url=os.environ["TOKENMINT_URL"],
    headers={"Authorization": f"Bearer {os.environ['TOKENMINT_API_KEY']}"},
    limits=httpx2.Limits(keepalive_expiry=4),  # tokenmint closes a connection that is idle for 5 s
)
provider = OAuth().register(
    "provider",
    server_metadata_url=os.environ["OIDC_ISSUER"].rstrip("/") + "/.well-known/openid-configuration",
    client_id=os.environ["OIDC_CLIENT_ID"],
    client_secret=os.environ.get("OIDC_CLIENT_SECRET"),
    client_kwargs={"scope": os.environ.get("OIDC_SCOPE", "openid"), "code_challenge_method": "S256", "timeout": 3},
)

# The logins by session id. The tokens stay on the server, and the cookie has only the id.
# This dictionary is the memory of one process: several processes need a store that they share.
logins = {}


class Login:
    """The tokens of one session."""

    def __init__(self, answer):
        self.user = answer["userinfo"]["sub"]
        self.refresh_token = None
        self.refreshing = None
        self.store(answer, answer["userinfo"])

    def store(self, answer, claims):
        """Takes the answer of the provider's token endpoint."""
        self.id_token = answer["id_token"]
        self.refresh_token = answer.get("refresh_token", self.refresh_token)
        self.received = time.monotonic()
        self.lifetime = claims["exp"] - claims["iat"]

    def spent(self):
        """The part of its life that the ID token has spent: 1 at its end. It doesn't depend on the clock of this machine."""
        return (time.monotonic() - self.received) / self.lifetime

    async def refresh(self):
        try:
            async with asyncio.timeout(3):
                answer = await provider.fetch_access_token(grant_type="refresh_token", refresh_token=self.refresh_token)
                claims = await provider.parse_id_token(answer, nonce=None)
            if claims and claims["sub"] == self.user:
                self.store(answer, claims)
            else:
                self.refresh_token = None  # an answer may have no ID token (OpenID Connect Core, section 12.2)
        except (OAuthError, JoseError, httpx2.HTTPError, TimeoutError, ValueError) as error:
            log.warning("login: no refresh, %s", type(error).__name__)
            if getattr(error, "error", None) == "invalid_grant":
                self.refresh_token = None  # it has expired, or is revoked
        self.refreshing = None


async def current_login(request: Request):
    """Returns the login of a session with an ID token that is still valid, or None: then the user must log in again."""
    login = logins.get(request.session.get("id"))
    if login is None:
        return None
    if login.spent() > 0.5 and login.refresh_token:
        # One refresh for all requests of the session, because some providers accept a refresh token only once.
        login.refreshing = login.refreshing or asyncio.create_task(login.refresh())
        await asyncio.shield(login.refreshing)  # a request that is cancelled doesn't cancel it
    if login.spent() < 0.75:
        return login
    logins.pop(request.session["id"], None)
    return None


async def ask_tokenmint(id_token: str):
    """Returns (status, tokens, headers) for GET /chat-tokens. The ID token names the user: the request has no `sub`."""
    try:
        async with asyncio.timeout(1):  # for the whole request; a timeout of httpx2 restarts at each step
            answer = await tokenmint.post("/bundle", json={"subject_token": id_token})
        if answer.status_code == 200:
            return 200, answer.json(), NO_STORE
        log.warning("tokenmint: no tokens, HTTP %s %s", answer.status_code, reason(answer))
        if answer.status_code == 429:
            return 429, None, NO_STORE | {"Retry-After": answer.headers.get("Retry-After", "60")}
    except (httpx2.HTTPError, TimeoutError, ValueError) as error:
        log.warning("tokenmint: no tokens, %s", type(error).__name__)  # the message may quote the API key
    return 204, None, NO_STORE


def reason(answer: httpx2.Response):
    """What the log gets of a refusal: its code, the field to blame, and the request id. No description, no token."""
    try:
        refusal = answer.json()
        return json.dumps({name: refusal.get(name) for name in ("error", "field", "request_id")})
    except (ValueError, AttributeError):  # for example the HTML page of a proxy
        return "{}"


@app.get("/")
async def page(request: Request):
    if login := await current_login(request):
        tokens = (await ask_tokenmint(login.id_token))[1]  # None: the page loads without tokens
        return templates.TemplateResponse(request, "page.html", {"user": login.user, "tokens": tokens}, headers=NO_STORE)
    if "id" not in request.session:
        return HTMLResponse('<!doctype html>\n<title>Chat tokens</title>\n<a href="/login">Sign in</a>\n', headers=NO_STORE)
    request.session.clear()  # its login has ended: a fresh one, and no anonymous chat
    return RedirectResponse("/login", 303, headers=NO_STORE)


@app.get("/chat-tokens")
async def chat_tokens(request: Request):
    login = await current_login(request)
    if login is None:
        return Response(status_code=401, headers=NO_STORE)
    status, tokens, headers = await ask_tokenmint(login.id_token)
    return JSONResponse(tokens, headers=headers) if tokens else Response(status_code=status, headers=headers)


@app.get("/login")
async def start_login(request: Request):
    return await provider.authorize_redirect(request, f"{APP_URL}/callback")  # with PKCE, state and nonce


@app.get("/callback")
async def finish_login(request: Request):
    try:
        login = Login(await provider.authorize_access_token(request))
    except (OAuthError, JoseError, httpx2.HTTPError, KeyError, ValueError) as error:
        log.warning("login: failed, %s", type(error).__name__)
        failed = '<!doctype html>\n<title>Chat tokens</title>\nSigning in failed. <a href="/login">Try again</a>\n'
        request.session.clear()
        return HTMLResponse(failed, 400, headers=NO_STORE)
    session_id = secrets.token_urlsafe()
    logins[session_id] = login
    asyncio.get_running_loop().call_later(SESSION_LENGTH, logins.pop, session_id, None)
    request.session.clear()
    request.session["id"] = session_id
    return RedirectResponse("/", 303, headers=NO_STORE)


@app.post("/logout")
def logout(request: Request):
    logins.pop(request.session.get("id"), None)
    request.session.clear()
    return RedirectResponse("/", 303)


@app.get("/tokenmint.js")
def helper():
    return FileResponse(EXAMPLES / "browser" / "tokenmint.js", media_type="text/javascript")
