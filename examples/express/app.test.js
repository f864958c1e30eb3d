import assert from "node:assert/strict";
import { after, test } from "node:test";

const { fetch } = globalThis; // kept, since one test replaces it for the app
process.env.PORT = "3001";
await import("./app.js");
after(() => setImmediate(() => process.exit())); // the app listens until then

const app = "http://127.0.0.1:3001";
const signedIn = await fetch(`${app}/login`, { method: "POST", body: new URLSearchParams({ user: "user-1" }), redirect: "manual" });
const cookie = signedIn.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ");
const get = (path, headers = { cookie }) => fetch(app + path, { headers });
const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
const tokensIn = (page) => JSON.parse(/id="chat-tokens">(.*?)<\/script>/.exec(page)[1]);

test("the page has both tokens of the signed-in user", async () => {
  const page = await get("/");
  const { tokens } = tokensIn(await page.text());
  assert.equal(claims(tokens.salesforce_identity_token).sub, "user-1");
  assert.equal(claims(tokens.intercom_user_jwt).user_id, "user-1");
  assert.equal(page.headers.get("Cache-Control"), "no-store");
});

test("new tokens need a session", async () => {
  assert.equal((await get("/chat-tokens")).status, 200);
  assert.equal((await get("/chat-tokens", {})).status, 401);
});

test("the page loads without tokenmint", async (t) => {
  t.mock.method(globalThis, "fetch", () => Promise.reject(new TypeError("fetch failed")));
  const page = await get("/");
  assert.equal(page.status, 200);
  assert.equal(tokensIn(await page.text()), null);
});
