"""POST /identity-token with FastAPI and PyJWT: `uvicorn fastapi_app:app --workers 2`.

Settings come from the environment: see ../harness/servers.py. The key is parsed once.
"""

import hashlib
import hmac
import os
import time
from pathlib import Path
from typing import Annotated

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

ISSUER, AUDIENCE, KID = (os.environ[name] for name in ("ISSUER", "AUDIENCE", "KID"))
API_KEY_SHA256 = bytes.fromhex(os.environ["API_KEY_SHA256"])
KEY = load_pem_private_key(Path(os.environ["KEY_FILE"]).read_bytes(), password=None)
TTL = 3600

app = FastAPI()
bearer = HTTPBearer(auto_error=False)


class Request(BaseModel):
    sub: str = Field(min_length=1, max_length=200)


class Answer(BaseModel):
    token: str
    token_type: str
    kid: str
    issued_at: int
    expires_at: int
    expires_in: int


async def authenticated(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]):
    presented = hashlib.sha256(credentials.credentials.encode() if credentials else b"").digest()
    if not hmac.compare_digest(presented, API_KEY_SHA256):
        raise HTTPException(401, "invalid_client", {"WWW-Authenticate": "Bearer"})


@app.get("/livez")
async def livez():
    return {"status": "ok"}


@app.post("/identity-token", dependencies=[Depends(authenticated)])
async def identity_token(request: Request, response: Response) -> Answer:
    iat = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": request.sub, "iat": iat, "exp": iat + TTL}
    token = jwt.encode(claims, KEY, algorithm="RS256", headers={"kid": KID})
    response.headers["Cache-Control"] = "no-store"
    return Answer(
        token=token, token_type="JWT", kid=KID, issued_at=iat, expires_at=iat + TTL, expires_in=TTL
    )
