// Keeps the chat tokens of a page fresh, for Salesforce Enhanced Chat and for Fin: see README.md

// Whose tokens they are; throws if they are none.
const subjectOf = ({ salesforce_identity_token: identity, intercom_user_jwt: jwt }) => {
  const payload = (identity ?? jwt).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
  const { sub, user_id } = JSON.parse(atob(payload));
  return sub ?? user_id;
};

// What others throw must not end us.
const attempt = async (action) => {
  try {
    await action();
  } catch {}
};

const PAUSE = 2_000;
const MINUTE = 60_000;
const REQUESTS = 5; // a minute

export function chatTokens({ url = "/chat-tokens", initial, fin, ready, report = () => {} } = {}) {
  const life = new AbortController();
  const { signal } = life;
  // Since the page's start. One clock may stop in the computer's sleep, the other can be set.
  const skew = Date.now() - performance.now();
  const clock = () => Math.max(performance.now(), Date.now() - skew);

  const chat = { stop, logout };
  let subject, timer, asking, expired;
  let since = 0; // when the tokens were asked for
  let due = initial === null ? PAUSE : 0; // when to ask next
  let barred = 0; // until then Retry-After forbids it
  let asked = [];
  let failures = 0;
  let refusals = 0;

  const backoff = (n) => (n < 0 ? 0 : Math.min(PAUSE * 2 ** n, 5 * MINUTE) * (1 + Math.random() / 2));
  const salesforce = () => window.embeddedservice_bootstrap?.userVerificationAPI;

  function offer() {
    const { salesforce_identity_token: identityToken, intercom_user_jwt: jwt } = chat.tokens ?? {};
    if (ready && identityToken) attempt(() => salesforce()?.setIdentityToken({ identityTokenType: "JWT", identityToken }));
    if (jwt && window.intercomSettings?.intercom_user_jwt !== jwt) {
      window.intercomSettings = { ...window.intercomSettings, ...fin, ...chat.tokens };
      attempt(() => window.Intercom?.("update", { ...fin, ...chat.tokens }));
    }
  }

  function take(answer, start) {
    const fresh = answer.tokens ?? { salesforce_identity_token: answer.token };
    const owner = subjectOf(fresh);
    if (owner !== (subject ?? owner)) return stop("other-user");
    [chat.tokens, subject, since] = [fresh, owner, start];
    // A duration: the browser's clock may be wrong.
    due = since + (Math.max((answer.expires_in - answer.expires_at + answer.renew_at) * 1000, PAUSE) || Infinity);
    failures = 0;
    expired = false;
    offer();
    report("tokens", fresh);
  }

  async function ask() {
    asking = true;
    asked = [...asked, performance.now()].slice(-REQUESTS);
    const start = clock();
    let status;
    await attempt(async () => {
      const answer = await fetch(url, {
        cache: "no-store",
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        signal: AbortSignal.timeout(10_000),
      });
      status = answer.status;
      barred = performance.now() + (answer.headers.get("Retry-After") * 1000 || 0);
      const body = await answer.json();
      if (!signal.aborted) take(body, start);
    });
    asking = false;
    if (signal.aborted) return;
    if (status === 401) return stop("signed-out");
    if (since === start) return check();
    due = clock() + backoff(failures++);
    check();
    report("failed", status);
  }

  function check() {
    clearTimeout(timer);
    if (asking || signal.aborted) return;
    const now = performance.now();
    const wait = Math.max(due - clock(), barred - now, asked.length < REQUESTS ? 0 : asked[0] + MINUTE - now);
    if (wait > 0) timer = setTimeout(check, Math.min(wait, 60 * MINUTE)); // of 25 days it would be 0
    else ask();
  }

  // One answer to a storm of events; longer and longer pauses while new tokens are refused.
  function expire() {
    if (expired) return;
    expired = true;
    failures = 0;
    if (clock() - since > MINUTE) refusals = 0;
    due = clock() + backoff(refusals++ - 1);
    check();
  }

  function stop(why = "stopped") {
    life.abort();
    clearTimeout(timer);
    delete chat.tokens;
    report(why);
  }

  async function logout() {
    attempt(stop);
    const { intercom_user_jwt, salesforce_identity_token, ...rest } = window.intercomSettings ?? {};
    if (intercom_user_jwt) window.intercomSettings = rest;
    attempt(() => window.Intercom?.("shutdown"));
    const enough = new Promise((done) => setTimeout(done, 3_000)); // the user gets out in any case
    await Promise.race([attempt(() => salesforce()?.clearSession(true)), enough]);
  }

  const on = (event, listener) => window.addEventListener(event, listener, { signal });
  const onReady = () => {
    ready = true;
    offer();
  };
  on("onEmbeddedMessagingReady", onReady);
  setTimeout(() => ready || onReady(), 5_000); // the event was before us
  on("onEmbeddedMessagingIdentityTokenExpired", expire);
  on("visibilitychange", check);
  if (initial) attempt(() => take(initial, 0));
  check();
  return chat;
}
