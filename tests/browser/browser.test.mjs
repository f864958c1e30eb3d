// examples/browser/tokenmint.js in headless Chromium, before a real tokenmint and stand-ins for Salesforce and Fin.
//
//   tests/browser/setup
//   TOKENMINT_BIN=target/debug/tokenmint node --test --test-concurrency=1 tests/browser/*.test.mjs
//
// UPDATE_SCREENSHOT=1 also takes the picture in docs/.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { App } from "./app.mjs";
import {
  ENTRIES, MINUTE, EVENT_TIMEOUT, assertBounded, assertIdentityVerified, assertInStep, assertRenewWithinASecond, assertVerified,
  calls, clocked, expire, fetches, launch, left, load, nextToken, open, repo, settings, settled, signIn, standIn, until,
} from "./harness.mjs";
import { Tokenmint } from "./tokenmint.mjs";

let browser, tokenmint, app, context;

before(async () => {
  [tokenmint, browser] = await Promise.all([Tokenmint.start(), launch()]);
});

after(async () => {
  await browser?.close();
  await tokenmint?.remove();
});

beforeEach(async () => {
  app = await App.start(tokenmint);
  context = await browser.newContext({ viewport: { width: 820, height: 350 } });
});

afterEach(async () => {
  await context.close();
  app.stop();
});

// --- what only these tests say

async function signedIn({ user = "user-4711", page } = {}) {
  page ??= await open(context);
  await signIn(page, app.url, user);
  return page;
}

const reports = async (page) => (await page.evaluate(() => window.reports)).map(([event]) => event);

// Until Salesforce was given its n-th token. Counted, as two tokens of the same second are the same bytes.
const offered = (page, n) =>
  until(`token number ${n}`, EVENT_TIMEOUT, async () => (await calls(page, "setIdentityToken")).length === n);

const requested = (n) => until(`request number ${n}`, EVENT_TIMEOUT, () => app.requests.length >= n);

const gaps = () => app.requests.slice(1).map(({ at }, index) => at - app.requests[index].at);

// Lets time pass in the page, and none while a request is under way.
async function pass(page, duration, step = 5_000) {
  for (let passed = 0; passed < duration; passed += step) {
    await page.clock.runFor(step);
    await until("an answer", EVENT_TIMEOUT, () => page.evaluate(() => window.unanswered === 0));
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
  await assertVerified(tokenmint, got, "user-4711");
  const [boot] = await calls(page, "boot");
  assert.deepEqual(boot, got);
  assert.deepEqual(await calls(page, "setIdentityToken"), [
    { identityTokenType: "JWT", identityToken: got.salesforce_identity_token },
  ]);
  assert.deepEqual(await calls(page, "update"), [], "the boot had them already");
  await settled(page);
  assert.equal(app.requests.length, 0);
  await assertInStep(page);
});

test("without tokens in the page it asks once, and hands both to Fin and one to Salesforce", async () => {
  app.embedded = false;
  const page = await signedIn({ user: "Zoë" });
  await nextToken(page);
  assert.equal(app.requests.length, 1);
  const [{ headers }] = app.requests;
  assert.match(headers.cookie, /user=/);
  assert.equal(headers["cache-control"], "no-cache"); // what no-store says of itself to a server
  assert.equal(headers.accept, "application/json");
  const got = await settings(page);
  await assertVerified(tokenmint, got, encodeURIComponent("Zoë"));
  const [update] = await calls(page, "update");
  assert.deepEqual(Object.keys(update).sort(), [...ENTRIES, "user_id"]);
  await assertInStep(page);
});

test("an expiry event brings a new token within a second, in two tabs at one time", async () => {
  const tabs = [await signedIn(), await open(context)];
  await load(tabs[1], app.url);
  await assertRenewWithinASecond(tabs);
  for (const tab of tabs) {
    await assertVerified(tokenmint, await settings(tab), "user-4711");
    assert.equal((await calls(tab, "update")).length, 1);
    assert.equal((await fetches(tab)).length, 1);
    assert.equal(await standIn(tab, "sessionsEnded"), 0);
    await assertInStep(tab);
  }
});

for (const [name, days] of [["right", 0], ["a day slow", -1]]) {
  test(`it renews when renew_at says, where the browser's clock is ${name}`, async () => {
    const page = await clocked(context, Date.now() + days * 24 * 60 * MINUTE);
    await signedIn({ page });
    await page.clock.fastForward(47 * MINUTE);
    await settled(page);
    assert.equal(app.requests.length, 0, "renew_at is 48 minutes after iat");
    await sleep(1000); // for other bytes
    await page.clock.fastForward(1 * MINUTE);
    await offered(page, 2);
    assert.equal(app.requests.length, 1);
    await page.clock.fastForward(47 * MINUTE);
    await settled(page);
    assert.equal(app.requests.length, 1);
    await assertInStep(page);
  });
}

test("after a sleep, which timers and one of the clocks don't notice, it looks again when the page is seen", async () => {
  const page = await clocked(context);
  await signedIn({ page });
  await page.clock.setSystemTime(Date.now() + 50 * MINUTE);
  await settled(page);
  assert.equal(app.requests.length, 0);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
  await offered(page, 2);
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange", { bubbles: true })));
  await settled(page);
  assert.equal(app.requests.length, 1);
});

test("a Salesforce that refuses every token gets few of them", async () => {
  const page = await clocked(context);
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
  const page = await clocked(context, Date.now() + 24 * 60 * MINUTE);
  await signedIn({ page });
  await pass(page, 3 * MINUTE);
  const times = await fetches(page);
  assertBounded(times);
  assert.ok(times.length >= 4 && times.length <= 8, `${times.length} requests in three minutes`);
});

test("Retry-After is obeyed, whatever happens meanwhile", async () => {
  const page = await signedIn();
  app.misbehave = (response) => response.writeHead(429, { "Retry-After": "4" }).end();
  await expire(page);
  await requested(1);
  app.misbehave = undefined;
  const answered = performance.now();
  let rounds = 0;
  for (; performance.now() < answered + 2500; rounds += 1) {
    await page.evaluate(() => {
      window.standIn.makeReady();
      window.standIn.expire();
      document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
    });
    await sleep(200); // some ten rounds within the wait
  }
  assert.ok(rounds >= 2, `${rounds} rounds`);
  await nextToken(page);
  assert.equal(app.requests.length, 2);
  assert.ok(gaps()[0] >= 4000, `${gaps()[0]} ms`);
  assert.equal(await standIn(page, "sessionsEnded"), 0);
});

test("tokenmint's own guard is understood", async () => {
  const page = await signedIn({ user: "user-with-a-storm" });
  const ask = () => tokenmint.post("/bundle", "user-with-a-storm").catch(() => undefined); // late
  await until("tokenmint says 429", EVENT_TIMEOUT, async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, ask));
    return answers.some((answer) => answer?.status === 429);
  });
  await expire(page);
  await nextToken(page);
  for (const [index, gap] of gaps().entries()) {
    const { retryAfter } = app.requests[index];
    assert.ok(gap >= (retryAfter ?? 0) * 1000, `${gap} ms after Retry-After: ${retryAfter}`);
  }
  assertBounded(await fetches(page));
  await assertInStep(page);
});

test("with tokenmint stopped the page loads and chats without token, and recovers when it is back", async () => {
  await tokenmint.stop();
  try {
    const page = await signedIn();
    const [boot] = await calls(page, "boot");
    assert.deepEqual(boot, { app_id: "your-app-id-here" });
    await requested(1);
    assert.ok(await page.isVisible("text=Signed in as"));
    assert.deepEqual(await calls(page, "setIdentityToken"), []);
    await until("a report", EVENT_TIMEOUT, async () => (await reports(page)).length > 0);
    assert.deepEqual(new Set(await reports(page)), new Set(["failed"]));
    await tokenmint.start();
    await nextToken(page);
    await assertVerified(tokenmint, await settings(page), "user-4711");
    await assertInStep(page);
    for (const [index, gap] of gaps().entries()) assert.ok(gap >= 2000 * 2 ** index, `pauses of ${gaps()} ms`);
  } finally {
    await tokenmint.stop();
    await tokenmint.start();
  }
});

test("whatever the app answers, the pauses grow and the page goes on", async () => {
  const page = await clocked(context);
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
  await expire(page);
  await pass(page, 20_000, 1_000);
  const more = (await fetches(page)).slice(times.length);
  assert.ok(more.length >= 3, `${more.length} requests in twenty seconds`);
  app.misbehave = undefined;
  await pass(page, 2 * MINUTE);
  await assertInStep(page);
  assertBounded(await fetches(page));
});

test("tokens that come without times are renewed at the expiry event", async () => {
  const page = await clocked(context);
  const body = await (await tokenmint.post("/bundle", "user-4711")).json();
  app.misbehave = (response) => response.end(JSON.stringify({ tokens: body.tokens }));
  app.embedded = false;
  await signedIn({ page });
  await nextToken(page);
  await pass(page, 5 * 60 * MINUTE, 30 * MINUTE);
  assert.equal((await fetches(page)).length, 1);

  await expire(page);
  await offered(page, 2);
});

// Nothing fails here and nothing is refused: only the count of requests keeps it from asking every two seconds.
test("tokens that are to be renewed at once are asked for five times a minute", async () => {
  const page = await clocked(context);
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
  await assertIdentityVerified(`${tokenmint.url}/.well-known/jwks.json`, await nextToken(page), "user-4711");
  assert.deepEqual(await calls(page, "update"), []);
  assert.deepEqual(await settings(page), { app_id: "your-app-id-here" });
});

test("signing out clears the chat, stops, and lets no late token in", async () => {
  const page = await signedIn();
  let release;
  app.misbehave = (response) => (release = response);
  await expire(page);
  await until("the request", EVENT_TIMEOUT, () => release);
  await page.evaluate(() => window.chat.logout());
  app.misbehave = undefined;
  const answer = await fetch(`${app.url}/chat-tokens`, { headers: { cookie: "user=user-4711" } });
  release.end(await answer.text());
  app.requests.length = 0;
  await settled(page);
  await page.evaluate(() => {
    window.standIn.expire();
    window.standIn.makeReady();
  });
  await settled(page);
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
  assert.deepEqual((await left(page)).calls.at(-1), ["clearSession", true]);
  assert.equal(await settings(page), undefined);
  await until("a chat that is ready", EVENT_TIMEOUT, () => standIn(page, "ready"));
  assert.deepEqual(await standIn(page, "calls"), [["boot", {}]]);
});

test("a chat that throws or hangs keeps nobody from signing out", async () => {
  const page = await signedIn();
  await page.evaluate(() => {
    window.Intercom = () => {
      throw new Error("no");
    };
    window.embeddedservice_bootstrap.userVerificationAPI.clearSession = () => {
      window.standIn.calls.push(["clearSession", performance.now()]);
      return new Promise(() => {});
    };
  });
  await page.click("#logout button");
  await page.waitForSelector("#login", { state: "visible" });
  const { calls: made, at } = await left(page);
  const waited = at - made.at(-1)[1]; // on the page's clock: this process may be slow to look
  assert.ok(waited < 5000, `${waited} ms`);
});

test("signed out or signed in as another user in another tab: the tokens are not used, and it asks no more", async () => {
  for (const [user, event] of [[undefined, "signed-out"], ["another", "other-user"]]) {
    const page = await signedIn();
    const old = await settings(page);
    await context.clearCookies();
    if (user) await context.addCookies([{ name: "user", value: user, url: app.url }]);
    const requests = app.requests.length;
    await expire(page);
    await until(event, EVENT_TIMEOUT, async () => (await reports(page)).at(-1) === event);
    for (let round = 0; round < 5; round += 1) {
      await expire(page);
      await settled(page);
    }
    assert.equal(app.requests.length, requests + 1);
    assert.equal((await calls(page, "setIdentityToken")).length, 1);
    assert.deepEqual(await settings(page), old);
    await context.clearCookies();
  }
});

test("a helper that comes after the ready event hands over its token all the same", async () => {
  const page = await clocked(context);
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

if (process.env.UPDATE_SCREENSHOT) {
  test("the picture for the documentation", async () => {
    const [width, height, shownAt] = [780, 380, 830]; // CSS pixels; a README shows a picture at most that wide
    const sharp = await browser.newContext({ viewport: { width, height }, deviceScaleFactor: 2 });
    const page = await signedIn({ page: await open(sharp) });
    await sleep(1100); // for other bytes: a token of the same second is the same
    await expire(page);
    await page.waitForFunction(() => document.querySelectorAll("#log li").length === 2, undefined, { polling: 20 });
    const { smallest, cut } = await page.evaluate(() => ({
      smallest: Math.min(...Array.from(document.querySelectorAll("h1, p, button, th, td, li"), (e) => parseFloat(getComputedStyle(e).fontSize))),
      cut: [document.documentElement, ...document.querySelectorAll("td, th")].filter(
        (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight,
      ).length,
    }));
    assert.ok((smallest * shownAt) / width >= 12, `text of ${smallest} px`);
    assert.equal(cut, 0, "text that is cut off");
    const picture = await page.screenshot({ path: join(repo, "docs/fin.png") });
    assert.ok(picture.length < 120_000, `${picture.length} bytes`);
    await sharp.close();
  });
}
