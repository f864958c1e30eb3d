# Chat tokens of tokenmint on a page of a FastAPI app.
#
#   pip install -r requirements.txt
#   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... uvicorn app:app  (--port, default 8000)
import asyncio
import json
import logging
import os
import pathlib
import secrets
from typing import Annotated

import httpx
from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.middleware.sessions import SessionMiddleware

HERE = pathlib.Path(__file__).parent
NO_STORE = {"Cache-Control": "no-store"}
log = logging.getLogger("uvicorn.error")

app = FastAPI(openapi_url=None)
# A signed cookie, SameSite=Lax. Behind https add: https_only=True
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SESSION_SECRET") or secrets.token_hex(32))
templates = Jinja2Templates(HERE)
tokenmint = httpx.AsyncClient(
    base_url=os.environ["TOKENMINT_URL"],
    headers={"Authorization": f"Bearer {os.environ['TOKENMINT_API_KEY']}"},
    limits=httpx.Limits(keepalive_expiry=4),  # tokenmint closes a connection that is idle for 5 s
)


async def ask_tokenmint(user_id: str):
    """Returns (status, tokens, headers) for GET /chat-tokens. `user_id` comes from the session, never from the browser."""
    try:
        async with asyncio.timeout(1):  # for the whole request; a timeout of httpx restarts at each step
            answer = await tokenmint.post("/bundle", json={"sub": user_id})
        if answer.status_code == 200:
            return 200, answer.json(), NO_STORE
        log.warning("tokenmint: no tokens, HTTP %s %s", answer.status_code, reason(answer))
        if answer.status_code == 429:
            return 429, None, NO_STORE | {"Retry-After": answer.headers.get("Retry-After", "60")}
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        log.warning("tokenmint: no tokens, %s", type(error).__name__)  # the message may quote the API key
    return 204, None, NO_STORE


def reason(answer: httpx.Response):
    """What the log gets of a refusal: its code, and the request id that tokenmint logs with RUST_LOG=debug. No description, no token."""
    try:
        refusal = answer.json()
        return json.dumps({name: refusal.get(name) for name in ("error", "request_id")})
    except (ValueError, AttributeError):  # for example the HTML page of a proxy
        return "{}"


@app.get("/")
async def page(request: Request):
    user = request.session.get("user")
    tokens = (await ask_tokenmint(user))[1] if user else None  # None: the page loads without tokens
    return templates.TemplateResponse(request, "page.html", {"user": user, "tokens": tokens}, headers=NO_STORE)


@app.get("/chat-tokens")
async def chat_tokens(request: Request):
    if not request.session.get("user"):
        return Response(status_code=401, headers=NO_STORE)
    status, tokens, headers = await ask_tokenmint(request.session["user"])
    return JSONResponse(tokens, headers=headers) if tokens else Response(status_code=status, headers=headers)


@app.post("/login")
def login(request: Request, user: Annotated[str, Form()] = ""):
    if user:  # put your own login, with a password, here
        request.session["user"] = user
    return RedirectResponse("/", 303)


@app.post("/logout")
def logout(request: Request):
    request.session.clear()
    return RedirectResponse("/", 303)


@app.get("/tokenmint.js")
def helper():
    return FileResponse(HERE.parent / "browser" / "tokenmint.js", media_type="text/javascript")
