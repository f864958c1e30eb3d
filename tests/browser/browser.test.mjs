// examples/browser/tokenmint.js in headless Chromium, before a real tokenmint and stand-ins for Salesforce and Fin.
//
//   tests/browser/setup
//   TOKENMINT_BIN=target/debug/tokenmint node --test tests/browser/*.test.mjs
//
// UPDATE_SCREENSHOT=1 also takes the picture in docs/.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { App } from "./app.mjs";
import { ISSUER, KID, Tokenmint } from "./tokenmint.mjs";

const repo = fileURLToPath(new URL("../../", import.meta.url));
const tools = resolve(process.env.TOKENMINT_TOOLS || join(repo, "target/tools"), "browser");
const installed = createRequire(join(tools, "package.json"));
const { chromium } = installed("playwright-core");
const { createRemoteJWKSet, jwtVerify } = await import(pathToFileURL(installed.resolve("jose")));

const ENTRIES = ["intercom_user_jwt", "salesforce_identity_token"];
const MINUTE = 60_000;

let browser, profile, tokenmint, app, context;

before(async () => {
  profile = mkdtempSync(join(tmpdir(), "tokenmint-chromium-"));
  tokenmint = await Tokenmint.start();
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    // Without the last four it asks its maker for updates, on a machine whose network may be closed.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
      ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ),
    env: { ...process.env, HOME: profile },
  });
});

after(async () => {
  await browser?.close();
  await tokenmint?.remove();
  rmSync(profile, { recursive: true, force: true });
});

beforeEach(async () => {
  app = await App.start(tokenmint);
  context = await browser.newContext({ viewport: { width: 820, height: 350 } });
});

afterEach(async () => {
  await context.close();
  app.stop();
});

// --- what the tests say

async function open(target = context) {
  const page = await target.newPage();
  page.crashes = [];
  page.on("pageerror", (error) => page.crashes.push(error.message));
  return page;
}

// The page after the login, its chat ready.
async function signedIn({ user = "user-4711", page } = {}) {
  page ??= await open();
  await page.goto(app.url);
  await page.fill("[name=user]", user);
  await page.click("#login button");
  await ready(page);
  return page;
}

const ready = (page) => page.waitForFunction(() => window.standIn?.ready && window.chat, undefined, { polling: 20 });

const settings = (page) => page.evaluate(() => window.intercomSettings);
const standIn = (page, name) => page.evaluate((name) => window.standIn[name], name);
const calls = async (page, method) =>
  (await standIn(page, "calls")).filter(([name]) => name === method).map(([, argument]) => argument);
const reports = async (page) => (await page.evaluate(() => window.reports)).map(([event]) => event);

// Until Salesforce was given its n-th token. Counted, as two tokens of the same second are the same bytes.
const offered = (page, n) =>
  until(`token number ${n}`, 2000, async () => (await calls(page, "setIdentityToken")).length === n);

// What Salesforce holds, once it is another one than `old`. Looked for from outside: the page's clock may be ours.
async function nextToken(page, old, patience) {
  const limit = performance.now() + patience;
  for (;;) {
    const token = await standIn(page, "identityToken");
    if (token && token !== old) return token;
    if (performance.now() > limit) {
      const heard = await page.evaluate(() => window.reports.map(([event, , at]) => `${event} at ${Math.round(at)}`));
      assert.fail(`no new token within ${patience} ms, ${app.requests.length} requests; the page heard ${heard}`);
    }
    await sleep(20);
  }
}

async function until(what, patience, condition) {
  const limit = performance.now() + patience;
  while (!(await condition())) {
    assert.ok(performance.now() < limit, `${what}: not within ${patience} ms`);
    await sleep(20);
  }
}

async function assertVerified(tokens, user) {
  const jwks = createRemoteJWKSet(new URL(`${tokenmint.url}/keysets/web/jwks.json`));
  const expected = { algorithms: ["RS256"], issuer: ISSUER, subject: user, requiredClaims: ["exp", "iat"] };
  const identity = await jwtVerify(tokens.salesforce_identity_token, jwks, expected);
  assert.equal(identity.protectedHeader.kid, KID);
  const secret = new TextEncoder().encode(tokenmint.intercomSecret);
  const intercom = await jwtVerify(tokens.intercom_user_jwt, secret, { algorithms: ["HS256"], requiredClaims: ["exp"] });
  assert.equal(intercom.payload.user_id, user);
}

// Salesforce holds the token that Fin was told of, and nobody was called in a way that the real ones would refuse.
async function assertInStep(page) {
  const [held, fin, now] = [await standIn(page, "identityToken"), await standIn(page, "fin"), await settings(page)];
  assert.equal(held, now.salesforce_identity_token);
  for (const name of ["user_id", ...ENTRIES]) assert.equal(fin[name], now[name], name);
  assert.deepEqual(await standIn(page, "violations"), []);
  assert.deepEqual(page.crashes, []);
}

// A page whose time is the test's.
async function clocked(time) {
  const page = await open();
  await page.addInitScript(() => {
    const { fetch } = window;
    window.fetches = [];
    window.unanswered = 0;
    window.fetch = (...request) => {
      window.fetches.push(performance.now());
      window.unanswered += 1;
      return fetch(...request).finally(() => (window.unanswered -= 1));
    };
  });
  await page.clock.install(time && { time });
  return page;
}

// Lets time pass in the page; while a request is under way, none passes but the real one.
async function pass(page, duration, step = 5_000) {
  for (let passed = 0; passed < duration; passed += step) {
    await page.clock.runFor(step);
    await until("an answer", 5000, () => page.evaluate(() => window.unanswered === 0));
    await sleep(10); // for its body
  }
}

const fetches = (page) => page.evaluate(() => window.fetches);

function assertBounded(times) {
  for (const [index, time] of times.entries()) {
    const minute = times.slice(index).filter((other) => other < time + MINUTE).length;
    assert.ok(minute <= 5, `${minute} requests in the minute from ${time}: ${times}`);
  }
}

// --- the tests

test("the module has at most 2 KB gzipped and brings nothing along", () => {
  const source = readFileSync(join(repo, "examples/browser/tokenmint.js"));
  assert.ok(gzipSync(source).length <= 2048, `${gzipSync(source).length} bytes`);
  assert.doesNotMatch(source.toString(), /\bimport\b|\brequire\b|\beval\b|https?:/);
});

test("from login to both tokens in intercomSettings, with no request at load", async () => {
  const page = await signedIn();
  const got = await settings(page);
  assert.equal(got.user_id, "user-4711");
  await assertVerified(got, "user-4711");
  const [boot] = await calls(page, "boot");
  assert.deepEqual(boot, got);
  assert.deepEqual(await calls(page, "setIdentityToken"), [
    { identityTokenType: "JWT", identityToken: got.salesforce_identity_token },
  ]);
  assert.deepEqual(await calls(page, "update"), [], "the boot had them already");
  await sleep(500);
  assert.equal(app.requests.length, 0);
  await assertInStep(page);
});

test("without tokens in the page it asks once, and hands both to Fin and one to Salesforce", async () => {
  app.embedded = false;
  const page = await signedIn({ user: "Zoë" });
  await nextToken(page, undefined, 1000);
  assert.equal(app.requests.length, 1);
  const [{ headers }] = app.requests;
  assert.match(headers.cookie, /user=/);
  assert.equal(headers["cache-control"], "no-cache"); // what no-store says of itself to a server
  assert.equal(headers.accept, "application/json");
  const got = await settings(page);
  await assertVerified(got, encodeURIComponent("Zoë"));
  const [update] = await calls(page, "update");
  assert.deepEqual(Object.keys(update).sort(), [...ENTRIES, "user_id"]);
  await assertInStep(page);
});

test("an expiry event brings a new token within a second, in each of two tabs", async () => {
  const tabs = [await signedIn(), await open()];
  await tabs[1].goto(app.url);
  await ready(tabs[1]);
  await sleep(1100); // or the same second would make the same token
  for (const [index, tab] of tabs.entries()) {
    const old = await standIn(tab, "identityToken");
    await tab.evaluate(() => window.standIn.expire());
    await nextToken(tab, old, 5000);
    const waited = await standIn(tab, "waited"); // as the page saw it: this process may be slow to look
    assert.ok(waited < 1000, `${waited} ms`);
    await assertVerified(await settings(tab), "user-4711");
    assert.equal((await calls(tab, "update")).length, 1);
    assert.equal(app.requests.length, index + 1);
    assert.equal(await standIn(tab, "sessionsEnded"), 0);
    await assertInStep(tab);
  }
});

for (const [name, days] of [["right", 0], ["a day slow", -1]]) {
  test(`it renews when renew_at says, where the browser's clock is ${name}`, async () => {
    const page = await clocked(Date.now() + days * 24 * 60 * MINUTE);
    await signedIn({ page });
    await page.clock.fastForward(47 * MINUTE);
    await sleep(300);
    assert.equal(app.requests.length, 0, "renew_at is 48 minutes after iat");
    await sleep(1000); // for other bytes
    await page.clock.fastForward(1 * MINUTE);
    await offered(page, 2);
    assert.equal(app.requests.length, 1);
    await page.clock.fastForward(47 * MINUTE);
    await sleep(300);
    assert.equal(app.requests.length, 1);
    await assertInStep(page);
  });
}

test("after a sleep, which timers and one of the clocks don't notice, it looks again when the page is seen", async () => {
  const page = await clocked();
  await signedIn({ page });
  await page.clock.setSystemTime(Date.now() + 50 * MINUTE);
  await sleep(300);
  assert.equal(app.requests.length, 0);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
  await offered(page, 2);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
  await sleep(300);
  assert.equal(app.requests.length, 1);
});

test("a Salesforce that refuses every token gets few of them", async () => {
  const page = await clocked();
  await page.addInitScript(() => document.addEventListener("DOMContentLoaded", () => (window.standIn.refusing = true)));
  await signedIn({ page });
  await pass(page, 10 * MINUTE);
  const times = await fetches(page);
  assert.ok((await standIn(page, "expiries")) > 40 * 500, "it did ask forty times a second");
  assertBounded(times);
  // At once, then after 2, 4, 8 … seconds and up to half as much again.
  assert.ok(times.length >= 6 && times.length <= 10, `${times.length} requests in ten minutes`);
  assert.equal(app.requests.length, times.length);

  await page.evaluate(() => (window.standIn.refusing = false));
  await pass(page, 8 * MINUTE, 20_000);
  await assertInStep(page);
  assert.ok(await standIn(page, "identityToken"));
});

test("a browser whose clock is a day fast finds every token expired, and asks seldom", async () => {
  const page = await clocked(Date.now() + 24 * 60 * MINUTE);
  await signedIn({ page });
  await pass(page, 3 * MINUTE);
  const times = await fetches(page);
  assertBounded(times);
  assert.ok(times.length >= 4 && times.length <= 8, `${times.length} requests in three minutes`);
});

test("Retry-After is obeyed, whatever happens meanwhile", async () => {
  const page = await signedIn();
  app.misbehave = (response) => response.writeHead(429, { "Retry-After": "4" }).end();
  await page.evaluate(() => window.standIn.expire());
  await until("the request", 1000, () => app.requests.length === 1);
  app.misbehave = undefined;
  for (let storm = 0; storm < 15; storm += 1) {
    await sleep(200);
    await page.evaluate(() => {
      window.standIn.makeReady();
      window.standIn.expire();
      document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
    });
  }
  assert.equal(app.requests.length, 1);
  await nextToken(page, undefined, 3000);
  assert.ok(app.requests[1].at - app.requests[0].at >= 4000);
  assert.equal(app.requests.length, 2);
  assert.equal(await standIn(page, "sessionsEnded"), 0);
});

test("tokenmint's own guard is understood", async () => {
  const page = await signedIn({ user: "user-with-a-storm" });
  const ask = () => tokenmint.post("/bundle", "user-with-a-storm");
  await until("tokenmint says 429", 15_000, async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, ask));
    return answers.some(({ status }) => status === 429);
  });
  await page.evaluate(() => window.standIn.expire());
  await nextToken(page, undefined, 15_000);
  assert.ok(app.requests.length <= 3);
  await assertInStep(page);
});

test("with tokenmint stopped the page loads and chats without token, and recovers when it is back", async () => {
  await tokenmint.stop();
  try {
    const page = await signedIn();
    const [boot] = await calls(page, "boot");
    assert.deepEqual(boot, { app_id: "your-app-id-here" });
    await until("a first try", 5000, () => app.requests.length === 1);
    assert.ok(await page.isVisible("text=Signed in as"));
    assert.deepEqual(await calls(page, "setIdentityToken"), []);
    assert.deepEqual(await reports(page), ["failed"]);
    await tokenmint.start();
    await nextToken(page, undefined, 10_000);
    await assertVerified(await settings(page), "user-4711");
    await assertInStep(page);
    assert.ok(app.requests.length <= 3);
  } finally {
    await tokenmint.stop();
    await tokenmint.start();
  }
});

test("whatever the app answers, the pauses grow and the page goes on", async () => {
  const page = await clocked();
  app.embedded = false;
  const answers = [
    (response) => response.writeHead(503).end("no"),
    (response) => response.destroy(),
    (response) => response.writeHead(204).end(),
    (response) => response.end("<!doctype html><p>Please sign in"),
    (response) => response.end("null"),
    (response) => response.end('{"tokens":{}}'),
    (response) => response.end('{"tokens":{"salesforce_identity_token":"a.b.c"}}'),
    (response) => response.writeHead(429, { "Retry-After": "soon" }).end(),
    (response) => response.writeHead(403).end(),
  ];
  let told = 0;
  app.misbehave = (response) => answers[told++ % answers.length](response);
  await signedIn({ page });
  await pass(page, 20 * MINUTE, 10_000);
  const times = await fetches(page);
  assertBounded(times);
  assert.ok(told >= answers.length && times.length <= 13, `${times.length} requests in twenty minutes`);
  assert.deepEqual(await calls(page, "setIdentityToken"), []);
  assert.deepEqual(new Set(await reports(page)), new Set(["failed"]));
  assert.deepEqual(page.crashes, []);

  // The user writes, and has 30 seconds: one try at once, and then the pauses are short again.
  app.misbehave = (response) => response.writeHead(503).end();
  await page.evaluate(() => window.standIn.expire());
  await pass(page, 20_000, 1_000);
  const more = (await fetches(page)).slice(times.length);
  assert.ok(more.length >= 3, `${more.length} requests in twenty seconds`);
  app.misbehave = undefined;
  await pass(page, 2 * MINUTE);
  await assertInStep(page);
  assertBounded(await fetches(page));
});

test("tokens that come without times are renewed at the expiry event", async () => {
  const page = await clocked();
  const body = await (await tokenmint.post("/bundle", "user-4711")).json();
  app.misbehave = (response) => response.end(JSON.stringify({ tokens: body.tokens }));
  app.embedded = false;
  await signedIn({ page });
  await nextToken(page, undefined, 2000);
  await pass(page, 5 * 60 * MINUTE, 30 * MINUTE);
  assert.equal((await fetches(page)).length, 1);

  await page.evaluate(() => window.standIn.expire());
  await offered(page, 2);
});

// Nothing fails here and nothing is refused: only the count of requests keeps it from asking every two seconds.
test("tokens that are to be renewed at once are asked for five times a minute", async () => {
  const page = await clocked();
  const body = await (await tokenmint.post("/bundle", "user-4711")).json();
  app.misbehave = (response) => response.end(JSON.stringify({ ...body, renew_at: 0 }));
  app.embedded = false;
  await signedIn({ page });
  await pass(page, 3 * MINUTE, 2_000);
  const times = await fetches(page);
  assertBounded(times);
  assert.ok(times.length >= 13, `${times.length} requests in three minutes`);
});

test("Salesforce's own snippet alone, with what /identity-token answers", async () => {
  app.embedded = false;
  app.misbehave = async (response) => {
    const answer = await tokenmint.post("/identity-token", "user-4711");
    response.end(await answer.text());
  };
  const page = await signedIn();
  const token = await nextToken(page, undefined, 1000);
  const jwks = createRemoteJWKSet(new URL(`${tokenmint.url}/.well-known/jwks.json`));
  await jwtVerify(token, jwks, { issuer: ISSUER, subject: "user-4711" });
  assert.deepEqual(await calls(page, "update"), []);
  assert.deepEqual(await settings(page), { app_id: "your-app-id-here" });
});

test("signing out clears the chat, stops, and lets no late token in", async () => {
  const page = await signedIn();
  let release;
  app.misbehave = (response) => (release = response);
  await page.evaluate(() => window.standIn.expire());
  await until("the request", 1000, () => release);
  await page.evaluate(() => window.chat.logout());
  app.misbehave = undefined;
  const answer = await fetch(`${app.url}/chat-tokens`, { headers: { cookie: "user=user-4711" } });
  release.end(await answer.text());
  app.requests.length = 0;
  await sleep(300);
  await page.evaluate(() => {
    window.standIn.expire();
    window.standIn.makeReady();
  });
  await sleep(300);
  assert.equal(app.requests.length, 0);
  assert.deepEqual(await calls(page, "clearSession"), [true]);
  assert.equal((await calls(page, "shutdown")).length, 1);
  assert.equal((await calls(page, "setIdentityToken")).length, 1, "the one at load");
  assert.deepEqual(await settings(page), { app_id: "your-app-id-here", user_id: "user-4711" });
  assert.equal(await page.evaluate(() => window.chat.tokens), undefined);
  assert.deepEqual(page.crashes, []);
});

test("the button signs out after the chat is cleared", async () => {
  const page = await signedIn();
  await page.click("#logout button");
  await page.waitForSelector("#login", { state: "visible" });
  const before = JSON.parse(await page.evaluate(() => sessionStorage.getItem("calls")));
  assert.deepEqual(before.at(-1), ["clearSession", true]);
  assert.equal(await settings(page), undefined);
  assert.deepEqual(await standIn(page, "calls"), [["boot", {}]]);
});

test("a chat that throws or hangs keeps nobody from signing out", async () => {
  const page = await signedIn();
  await page.evaluate(() => {
    window.Intercom = () => {
      throw new Error("no");
    };
    window.embeddedservice_bootstrap.userVerificationAPI.clearSession = () => new Promise(() => {});
  });
  const start = performance.now();
  await page.click("#logout button");
  await page.waitForSelector("#login", { state: "visible" });
  assert.ok(performance.now() - start < 5000);
});

test("signed out or signed in as another user in another tab: the tokens are not used, and it asks no more", async () => {
  for (const [user, event] of [[undefined, "signed-out"], ["another", "other-user"]]) {
    const page = await signedIn();
    const old = await settings(page);
    await context.clearCookies();
    if (user) await context.addCookies([{ name: "user", value: user, url: app.url }]);
    const requests = app.requests.length;
    await page.evaluate(() => window.standIn.expire());
    await until(event, 5000, async () => (await reports(page)).at(-1) === event);
    for (let storm = 0; storm < 5; storm += 1) {
      await page.evaluate(() => window.standIn.expire());
      await sleep(50);
    }
    assert.equal(app.requests.length, requests + 1);
    assert.equal((await calls(page, "setIdentityToken")).length, 1);
    assert.deepEqual(await settings(page), old);
    await context.clearCookies();
  }
});

test("a helper that comes after the ready event hands over its token all the same", async () => {
  const page = await clocked();
  await signedIn({ page });
  const late = (options) =>
    page.evaluate(async (options) => {
      const { chatTokens } = await import("/tokenmint.js");
      window.chat.stop();
      window.standIn.calls.length = 0;
      window.chat = chatTokens({ ...options, initial: JSON.parse(document.getElementById("page").textContent).initial });
    }, options);
  await late({ ready: true });
  assert.equal((await calls(page, "setIdentityToken")).length, 1);
  await late({});
  assert.equal((await calls(page, "setIdentityToken")).length, 0);
  await page.clock.runFor(5_000);
  assert.equal((await calls(page, "setIdentityToken")).length, 1);
  assert.deepEqual(await standIn(page, "violations"), []);
});

test("the picture for the documentation", { skip: !process.env.UPDATE_SCREENSHOT }, async () => {
  const page = await signedIn();
  await sleep(1100);
  await page.evaluate(() => window.standIn.expire());
  await page.waitForFunction(() => document.querySelectorAll("#log li").length === 2, undefined, { polling: 20 });
  const picture = await page.screenshot({ path: join(repo, "docs/fin.png") });
  assert.ok(picture.length < 60_000, `${picture.length} bytes`);
});
