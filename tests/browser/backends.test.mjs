// The page of each backend in examples/, in headless Chromium, before a real tokenmint. The pages leave out the scripts
// of Salesforce and Fin: stand-in.js stands for both, from the page's start.
//
//   tests/browser/setup && tests/examples/setup
//   TOKENMINT_BIN=target/debug/tokenmint node --test --test-concurrency=1 tests/browser/*.test.mjs
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { BACKENDS, Backend } from "./backends.mjs";
import {
  ENTRIES, EVENT_TIMEOUT, assertBounded, assertInStep, assertRenewWithinASecond, assertVerified, assertVerifiedByRuby, calls,
  expire, fetches, launch, left, load, nextToken, open, settings, signIn, standIn, until,
} from "./harness.mjs";
import { Tokenmint } from "./tokenmint.mjs";

const GUEST = { api_base: "https://api-iam.intercom.io", app_id: "your-app-id-here" };
const USER = "user-4711 Zoë </script>";

let browser, tokenmint, context;

before(async () => {
  [tokenmint, browser] = await Promise.all([Tokenmint.start(), launch()]);
});

after(async () => {
  await browser?.close();
  await tokenmint?.remove();
});

beforeEach(async () => {
  context = await browser.newContext();
  await context.addInitScript({ path: fileURLToPath(new URL("stand-in.js", import.meta.url)) });
});

afterEach(() => context.close());

async function assertUsersTokens(tokens) {
  await Promise.all([assertVerified(tokenmint, tokens, USER), assertVerifiedByRuby(tokenmint, tokens, USER)]);
}

for (const name of BACKENDS) {
  describe(name, () => {
    let backend;

    before(async () => {
      backend = await Backend.start(name, tokenmint);
    });

    after(() => backend?.remove());

    // As many tabs of one signed-in browser.
    async function tabs(count) {
      const pages = [];
      for (let number = 0; number < count; number += 1) {
        pages.push(await open(context));
        await (number === 0 ? signIn(pages[0], backend.url, USER) : load(pages[number], backend.url));
      }
      return pages;
    }

    test("from the login form to both tokens in intercomSettings, verified by two libraries", async () => {
      const [page] = await tabs(1);
      assert.ok(await page.isVisible(`text=Signed in as ${USER}`));
      const got = await settings(page);
      assert.deepEqual(Object.keys(got).sort(), [...Object.keys(GUEST), ...ENTRIES, "user_id"].sort());
      assert.equal(got.user_id, USER);
      await assertUsersTokens(got);
      await assert.rejects(assertVerified(tokenmint, got, "another"));
      await assert.rejects(assertVerifiedByRuby(tokenmint, got, "another"));
      assert.deepEqual(await calls(page, "boot"), [got]);
      const argument = { identityTokenType: "JWT", identityToken: got.salesforce_identity_token };
      assert.deepEqual(await calls(page, "setIdentityToken"), [argument]);
      assert.deepEqual(await calls(page, "update"), [], "the boot had them already");
      assert.deepEqual(await fetches(page), [], "the page brought them along");
      await assertInStep(page);
    });

    test("an expiry event brings a new token within a second, in two tabs at one time", async () => {
      const pages = await tabs(2);
      await assertRenewWithinASecond(pages);
      for (const page of pages) {
        const got = await settings(page);
        await assertUsersTokens(got);
        const [update, ...more] = await calls(page, "update");
        assert.deepEqual(update, { user_id: USER, ...Object.fromEntries(ENTRIES.map((entry) => [entry, got[entry]])) });
        assert.deepEqual(more, []);
        assert.equal(await standIn(page, "sessionsEnded"), 0);
        await assertInStep(page);
      }
    });

    test("with tokenmint stopped the page loads and chats without token, and recovers when it is back", async () => {
      const [before] = await tabs(1);
      const old = await nextToken(before);
      await sleep(1100); // for other bytes
      await tokenmint.stop();
      const page = await open(context);
      try {
        await load(page, backend.url);
        assert.ok(await page.isVisible(`text=Signed in as ${USER}`));
        assert.deepEqual(await settings(page), GUEST);
        assert.deepEqual(await calls(page, "boot"), [GUEST]);
        await expire(before);
        await until("a first try in vain", EVENT_TIMEOUT, async () => (await fetches(page)).length > 0);
        assert.deepEqual(await calls(page, "setIdentityToken"), []);
        assert.deepEqual(await settings(page), GUEST);
      } finally {
        await tokenmint.start();
      }
      for (const recovered of [before, page]) {
        await nextToken(recovered, old);
        await assertUsersTokens(await settings(recovered));
        assert.equal(await standIn(recovered, "sessionsEnded"), 0, "in time for the conversation");
        await assertInStep(recovered);
        assertBounded(await fetches(recovered));
      }
    });

    test("signing out clears Salesforce's session, Fin's, intercomSettings and the app's own", async () => {
      const [page, other] = await tabs(2);
      await page.click("#logout button");
      await page.waitForSelector("form[action='/login']");
      const { calls: made, identityToken, sessionsEnded, fin, settings: last } = await left(page);
      assert.deepEqual(made.slice(-2), [["shutdown", {}], ["clearSession", true]]);
      assert.deepEqual({ identityToken, sessionsEnded, fin }, { identityToken: undefined, sessionsEnded: 1, fin: undefined });
      assert.deepEqual(last, { ...GUEST, user_id: USER });

      assert.equal(await settings(page), undefined);
      assert.equal((await context.request.get(`${backend.url}/chat-tokens`)).status(), 401);
      await page.goBack();
      await page.waitForSelector("form[action='/login']");
      assert.doesNotMatch(await page.content(), /eyJ/);

      // A tab that was left open asks once, and gives Salesforce nothing more.
      for (let round = 0; round < 5; round += 1) {
        await expire(other);
        await until("the answer", EVENT_TIMEOUT, () => other.evaluate(() => window.unanswered === 0));
      }
      assert.equal((await fetches(other)).length, 1);
      assert.equal((await calls(other, "setIdentityToken")).length, 1, "the one at load");
      assert.deepEqual([...page.crashes, ...other.crashes], []);
    });
  });
}
