// What the tests of this folder share: headless Chromium, pages whose calls are watched, and the words that tests use.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { ISSUER, KID } from "./tokenmint.mjs";

export const repo = fileURLToPath(new URL("../../", import.meta.url));
export const tools = resolve(process.env.TOKENMINT_TOOLS || join(repo, "target/tools"));
const installed = createRequire(join(tools, "browser/package.json"));
const { chromium } = installed("playwright-core");
const { createRemoteJWKSet, jwtVerify } = await import(pathToFileURL(installed.resolve("jose")));

export const ENTRIES = ["intercom_user_jwt", "salesforce_identity_token"];
export const MINUTE = 60_000;
export const EVENT_TIMEOUT = 25_000; // with a busy machine, for what must come and whose time is not the point

// --- Chromium and its pages

// What runs before a page's own scripts.
const watch = readFileSync(new URL("watch.js", import.meta.url), "utf8");

export async function launch() {
  const profile = mkdtempSync(join(tmpdir(), "tokenmint-chromium-"));
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    // Without the last four it asks its maker for updates, on a machine whose network may be closed.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
      ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ),
    env: { ...process.env, HOME: profile },
  });
  browser.on("disconnected", () => rmSync(profile, { recursive: true, force: true, maxRetries: 5 }));
  return browser;
}

export async function open(context) {
  const page = await context.newPage();
  page.crashes = [];
  page.on("pageerror", (error) => page.crashes.push(error.message));
  await page.addInitScript(watch);
  return page;
}

// A page whose time stands still, but for the test's words. The seconds are for the way from one command to the next.
export async function clocked(context, time = Date.now()) {
  const page = await open(context);
  await page.clock.install({ time });
  await page.clock.pauseAt(time + 5_000);
  page.paused = true;
  return page;
}

// The page after the login, its chat ready.
export async function signIn(page, url, user) {
  await page.goto(url);
  await page.fill("[name=user]", user);
  await page.click("form[action='/login'] button");
  await page.waitForSelector("text=Signed in as");
  await ready(page);
}

export async function load(page, url) {
  await page.goto(url);
  await ready(page);
}

export const ready = (page) =>
  until("a chat that is ready", EVENT_TIMEOUT, async () => {
    if (page.paused) await page.clock.runFor(50);
    return page.evaluate(() => Boolean(window.standIn?.ready && window.intercomSettings));
  });

export async function until(what, patience, condition) {
  const limit = performance.now() + patience;
  while (!(await condition())) {
    assert.ok(performance.now() < limit, `${what}: not within ${patience} ms`);
    await sleep(20);
  }
}

// Three requests that the app has answered: it has heard of any request that the page made before. They are not among `fetches`,
// and their callbacks depend on no clock of the page.
export const settled = (page) =>
  page.evaluate(() => {
    for (let n = 0; n < 3; n += 1) {
      const request = new XMLHttpRequest();
      request.open("GET", "/settled", false);
      request.send();
    }
  });

// --- what a page holds

export const settings = (page) => page.evaluate(() => window.intercomSettings);
export const fetches = (page) => page.evaluate(() => window.fetches); // since its load: when, on its own clock
export const left = (page) => page.evaluate(() => JSON.parse(sessionStorage.getItem("left"))); // of the page before it
export const standIn = (page, name) => page.evaluate((name) => window.standIn[name], name);
export const expire = (page) => page.evaluate(() => window.standIn.expire());
export const calls = async (page, method) =>
  (await standIn(page, "calls")).filter(([name]) => name === method).map(([, argument]) => argument);

// What Salesforce holds, once it is another one than `old`. Looked for from outside: the page's clock may be ours.
export async function nextToken(page, old) {
  let token;
  const isNew = async () => (token = await standIn(page, "identityToken")) && token !== old;
  await until("a new token", EVENT_TIMEOUT, isNew).catch(async (error) => {
    const heard = await page.evaluate(() => window.reports?.map(([event, , at]) => `${event} at ${Math.round(at)}`));
    throw new Error(`${error.message}; requests at ${await fetches(page)}; the page heard ${heard}`);
  });
  return token;
}

// --- what tests claim

// Salesforce holds the token that Fin was told of, and nobody was called in a way that the real ones would refuse.
export async function assertInStep(page) {
  const [held, fin, now] = [await standIn(page, "identityToken"), await standIn(page, "fin"), await settings(page)];
  assert.equal(held, now.salesforce_identity_token);
  for (const name of ["user_id", ...ENTRIES]) assert.equal(fin[name], now[name], name);
  assert.deepEqual(await standIn(page, "violations"), []);
  assert.deepEqual(page.crashes, []);
}

// The tokens of all these pages expire at one time: each page asks in the same breath, and has another token within a
// second, as it saw it itself. The best of five tries counts, for the claim is about the page and not about what else
// the machine does. Each is after a load, since a page pauses before the second token in a minute.
export async function assertRenewWithinASecond(pages) {
  const tries = [];
  while (tries.length < 5) {
    if (tries.length > 0) await Promise.all(pages.map((page) => page.reload().then(() => ready(page))));
    await sleep(1100); // or the same second would make the same token
    const waits = pages.map(async (page) => {
      const old = await nextToken(page);
      const asked = () => {
        window.standIn.expire();
        return window.fetches.length;
      };
      assert.equal(await page.evaluate(asked), 1, "it asks at the event, and not later");
      await nextToken(page, old);
      return standIn(page, "waited");
    });
    tries.push(await Promise.all(waits));
    if (tries.at(-1).every((wait) => wait < 1000)) return;
  }
  assert.fail(`no try in which each page had its token within a second: ${tries.join(" | ")} ms`);
}

export function assertBounded(times) {
  for (const [index, time] of times.entries()) {
    const minute = times.slice(index).filter((other) => other < time + MINUTE).length;
    assert.ok(minute <= 5, `${minute} requests in the minute from ${time}: ${times}`);
  }
}

// Both tokens are this user's, says jose.
export async function assertVerified(tokenmint, tokens, user) {
  await assertIdentityVerified(tokenmint.jwksUrl, tokens.salesforce_identity_token, user);
  const secret = new TextEncoder().encode(tokenmint.intercomSecret);
  const intercom = await jwtVerify(tokens.intercom_user_jwt, secret, { algorithms: ["HS256"], requiredClaims: ["exp"] });
  assert.equal(intercom.payload.user_id, user);
}

export async function assertIdentityVerified(jwksUrl, token, user) {
  const expected = { algorithms: ["RS256"], issuer: ISSUER, subject: user, requiredClaims: ["exp", "iat"] };
  const identity = await jwtVerify(token, createRemoteJWKSet(new URL(jwksUrl)), expected);
  assert.equal(identity.protectedHeader.kid, KID);
}

// And ruby-jwt, which shares no cryptography with Node.
export async function assertVerifiedByRuby(tokenmint, tokens, user) {
  const [identity, intercom] = await Promise.all([
    ruby("ruby-jwt.rb", tokenmint.jwksUrl, tokens.salesforce_identity_token, "RS256", ISSUER, user),
    ruby("ruby-jwt-secret.rb", tokens.intercom_user_jwt, tokenmint.intercomSecret),
  ]);
  assert.equal(identity.sub, user);
  assert.equal(intercom.user_id, user);
}

async function ruby(script, ...words) {
  const { stdout } = await promisify(execFile)("ruby", [join(repo, "tests/interop/verifiers", script), ...words]);
  return JSON.parse(stdout);
}
