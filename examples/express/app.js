// Chat tokens of tokenmint on a page of an Express app.
//
//   npm ci
//   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... node app.js    (PORT, default 3000)
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import cookieSession from "cookie-session";
import express from "express";
import { page } from "./page.js";

const { TOKENMINT_URL, TOKENMINT_API_KEY, SESSION_SECRET, PORT = "3000" } = process.env;
if (!TOKENMINT_URL || !TOKENMINT_API_KEY) throw new Error("set TOKENMINT_URL and TOKENMINT_API_KEY");

// The answer of GET /chat-tokens. `userId` comes from the session, never from the browser.
async function askTokenmint(userId) {
  try {
    const response = await fetch(`${TOKENMINT_URL}/bundle`, {
      method: "POST",
      headers: { Authorization: `Bearer ${TOKENMINT_API_KEY}`, "Content-Type": "application/json" },
      body: JSON.stringify({ sub: userId }),
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

// What the log gets of a refusal: its code, and the request id that tokenmint logs with RUST_LOG=debug. No description, no token.
function reason(body) {
  try {
    const { error, request_id } = JSON.parse(body);
    return JSON.stringify({ error, request_id });
  } catch {
    return "{}"; // for example the HTML page of a proxy
  }
}

const app = express();
app.set("etag", false);
app.use(express.urlencoded({ extended: false }));
// A signed cookie. Behind https add: secure: true
app.use(cookieSession({ secret: SESSION_SECRET || randomBytes(32).toString("hex"), sameSite: "lax" }));
app.use((request, response, next) => {
  response.set("Cache-Control", "no-store");
  next();
});

app.get("/", async (request, response) => {
  const { user } = request.session;
  response.send(page(user, user && (await askTokenmint(user)).tokens));
});

app.get("/chat-tokens", async (request, response) => {
  if (!request.session.user) return response.status(401).end();
  const { status, tokens, retryAfter } = await askTokenmint(request.session.user);
  if (retryAfter) response.set("Retry-After", retryAfter);
  return tokens ? response.json(tokens) : response.status(status).end();
});

app.post("/login", (request, response) => {
  // Put your own login, with a password, here.
  if (request.body?.user) request.session.user = String(request.body.user);
  response.redirect(303, "/");
});

app.post("/logout", (request, response) => {
  request.session = null;
  response.redirect(303, "/");
});

app.get("/tokenmint.js", (request, response) =>
  response.sendFile(fileURLToPath(new URL("../browser/tokenmint.js", import.meta.url)), { cacheControl: false }),
);

app.listen(Number(PORT), "127.0.0.1");
