// Keeps the chat tokens of a page fresh, for Salesforce Enhanced Chat and for Fin: see README.md

// The user of these tokens; throws if they aren't JWTs.
const subjectOf = ({ salesforce_identity_token: identity, intercom_user_jwt: jwt }) => {
  const payload = (identity ?? jwt).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
  const { sub, user_id } = JSON.parse(atob(payload));
  return sub ?? user_id;
};

// Errors of other code must not stop the helper.
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
  // Since the page's start. performance.now() may stop while the computer sleeps; Date.now() can be set.
  const skew = Date.now() - performance.now();
  const clock = () => Math.max(performance.now(), Date.now() - skew);

  const chat = { stop, logout };
  let subject, timer, asking, expired;
  let since = 0; // when the tokens were requested
  let due = initial === null ? PAUSE : 0; // when to request next
  let barred = 0; // no request before this, by Retry-After
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
    if (wait > 0) timer = setTimeout(check, Math.min(wait, 60 * MINUTE)); // 25 days would overflow
    else ask();
  }

  // Many events cause one request; the pauses grow while new tokens are rejected.
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
    const enough = new Promise((done) => setTimeout(done, 3_000)); // signing out never waits longer
    await Promise.race([attempt(() => salesforce()?.clearSession(true)), enough]);
  }

  const on = (event, listener) => window.addEventListener(event, listener, { signal });
  const onReady = () => {
    ready = true;
    offer();
  };
  on("onEmbeddedMessagingReady", onReady);
  setTimeout(() => ready || onReady(), 5_000); // the event came before this ran
  on("onEmbeddedMessagingIdentityTokenExpired", expire);
  on("visibilitychange", check);
  if (initial) attempt(() => take(initial, 0));
  check();
  return chat;
}
