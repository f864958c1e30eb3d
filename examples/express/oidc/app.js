// Chat tokens of tokenmint on a page of an Express app, for users who log in by OpenID Connect.
//
//   npm ci
//   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... \
//     OIDC_ISSUER=https://login.example.com OIDC_CLIENT_ID=... OIDC_CLIENT_SECRET=... node app.js    (README.md has the rest)
import { randomBytes, randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import cookieSession from "cookie-session";
import express from "express";
import * as openid from "openid-client";
import { page } from "../page.js";

const { TOKENMINT_URL, TOKENMINT_API_KEY, SESSION_SECRET, PORT = "3000", APP_URL = `http://127.0.0.1:${PORT}` } = process.env;
const { OIDC_ISSUER, OIDC_CLIENT_ID, OIDC_CLIENT_SECRET, OIDC_SCOPE = "openid" } = process.env;
if (!TOKENMINT_URL || !TOKENMINT_API_KEY) throw new Error("set TOKENMINT_URL and TOKENMINT_API_KEY");
if (!OIDC_ISSUER || !OIDC_CLIENT_ID) throw new Error("set OIDC_ISSUER and OIDC_CLIENT_ID");

const provider = await openid.discovery(new URL(OIDC_ISSUER), OIDC_CLIENT_ID, OIDC_CLIENT_SECRET, undefined, {
  timeout: 3, // seconds, for each request
  execute: OIDC_ISSUER.startsWith("http://127.0.0.1:") ? [openid.allowInsecureRequests] : [], // a provider on this machine
});

// The logins by session id. The tokens stay on the server, and the cookie has only the id.
// This map is the memory of one process: several processes need a store that they share.
const logins = new Map();
const SESSION_LENGTH = 8 * 60 * 60 * 1000;

// Puts the answer of the provider's token endpoint into a login.
function store(login, answer) {
  const { sub, iat, exp } = answer.claims();
  login.user = sub;
  login.idToken = answer.id_token;
  login.refreshToken = answer.refresh_token ?? login.refreshToken;
  login.received = performance.now();
  login.lifetime = (exp - iat) * 1000;
}

// The part of its life that the ID token has spent: 1 at its end. It doesn't depend on the clock of this machine.
const spent = (login) => (performance.now() - login.received) / login.lifetime;

// Returns the login of a session with an ID token that is still valid, or undefined: then the user must log in again.
async function currentLogin(id) {
  const login = logins.get(id);
  if (!login) return undefined;
  // One refresh for all requests of the session, because some providers accept a refresh token only once.
  if (spent(login) > 0.5 && login.refreshToken) await (login.refreshing ??= refresh(login));
  if (spent(login) < 0.75) return login;
  logins.delete(id);
}

async function refresh(login) {
  try {
    const answer = await openid.refreshTokenGrant(provider, login.refreshToken);
    if (answer.claims()?.sub === login.user) store(login, answer);
    else login.refreshToken = undefined; // an answer may have no ID token (OpenID Connect Core, section 12.2)
  } catch (error) {
    console.warn(`login: no refresh, ${error.code ?? error.name}`);
    if (error.error === "invalid_grant") login.refreshToken = undefined; // it has expired, or is revoked
  }
  login.refreshing = undefined;
}

// The answer of GET /chat-tokens. The ID token names the user: the request has no `sub`.
async function askTokenmint(idToken) {
  try {
    const response = await fetch(`${TOKENMINT_URL}/bundle`, {
      method: "POST",
      headers: { Authorization: `Bearer ${TOKENMINT_API_KEY}`, "Content-Type": "application/json" },
      body: JSON.stringify({ subject_token: idToken }),
      signal: AbortSignal.timeout(1000), // for the whole request, with its body
    });
    const body = await response.text();
    if (response.status === 200) return { status: 200, tokens: JSON.parse(body) };
    console.warn(`tokenmint: no tokens, HTTP ${response.status} ${reason(body)}`);
    if (response.status === 429) return { status: 429, retryAfter: response.headers.get("Retry-After") ?? "60" };
  } catch (error) {
    console.warn(`tokenmint: no tokens, ${error.name}`); // down or slow. The message may quote the API key, so log only the name
  }
  return { status: 204 };
}

// What the log gets of a refusal: its code, the field to blame, and the request id. No description, no token.
function reason(body) {
  try {
    const { error, field, request_id } = JSON.parse(body);
    return JSON.stringify({ error, field, request_id });
  } catch {
    return "{}"; // for example the HTML page of a proxy
  }
}

const app = express();
app.set("etag", false);
// A signed cookie. Behind https add: secure: true
app.use(cookieSession({ secret: SESSION_SECRET || randomBytes(32).toString("hex"), sameSite: "lax" }));
app.use((request, response, next) => {
  response.set("Cache-Control", "no-store");
  next();
});

app.get("/", async (request, response) => {
  const login = await currentLogin(request.session.id);
  if (login) return response.send(page(login.user, (await askTokenmint(login.idToken)).tokens));
  if (!request.session.id) return response.send('<!doctype html>\n<title>Chat tokens</title>\n<a href="/login">Sign in</a>\n');
  request.session = null; // its login has ended: a fresh one, and no anonymous chat
  response.redirect(303, "/login");
});

app.get("/chat-tokens", async (request, response) => {
  const login = await currentLogin(request.session.id);
  if (!login) return response.status(401).end();
  const { status, tokens, retryAfter } = await askTokenmint(login.idToken);
  if (retryAfter) response.set("Retry-After", retryAfter);
  return tokens ? response.json(tokens) : response.status(status).end();
});

app.get("/login", async (request, response) => {
  const verifier = openid.randomPKCECodeVerifier();
  const [state, nonce] = [openid.randomState(), openid.randomNonce()];
  request.session.pending = { verifier, state, nonce };
  const url = openid.buildAuthorizationUrl(provider, {
    redirect_uri: `${APP_URL}/callback`,
    scope: OIDC_SCOPE,
    state,
    nonce,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  });
  response.redirect(303, url.href);
});

app.get("/callback", async (request, response) => {
  const { pending } = request.session;
  const [id, login] = [randomUUID(), {}];
  request.session = null;
  try {
    if (!pending) throw new Error("this session has started no login");
    const checks = { pkceCodeVerifier: pending.verifier, expectedState: pending.state, expectedNonce: pending.nonce };
    const answer = await openid.authorizationCodeGrant(provider, new URL(request.originalUrl, APP_URL), { ...checks, idTokenExpected: true });
    store(login, answer);
  } catch (error) {
    console.warn(`login: failed, ${error.code ?? error.name}`);
    return response.status(400).send('<!doctype html>\n<title>Chat tokens</title>\nSigning in failed. <a href="/login">Try again</a>\n');
  }
  logins.set(id, login);
  setTimeout(() => logins.delete(id), SESSION_LENGTH).unref();
  request.session = { id };
  response.redirect(303, "/");
});

app.post("/logout", (request, response) => {
  logins.delete(request.session.id);
  request.session = null;
  response.redirect(303, "/");
});

app.get("/tokenmint.js", (request, response) =>
  response.sendFile(fileURLToPath(new URL("../../browser/tokenmint.js", import.meta.url)), { cacheControl: false }),
);

app.listen(Number(PORT), "127.0.0.1");
