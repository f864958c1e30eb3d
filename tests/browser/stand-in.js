// Stands in for two scripts of other people: Salesforce's bootstrap.js and Fin's messenger. Behaves as the notes of
// shared/reference/salesforce-facts.md (3.5 and 4) have it. The tests control it by window.standIn.
{
  const standIn = {
    refusing: false, // Salesforce takes no token, and says so forty times a second
    calls: [], // [name, argument] of each call, both scripts'
    violations: [], // what the real ones would have refused, or logged as an error
    identityToken: undefined, // that Salesforce holds, in memory only
    sessionsEnded: 0,
    expiries: 0, // events of that name
    waited: undefined, // from the last of them to the token that Salesforce took
    deadline: undefined, // expiry events are answered within 30 s, or session and data are cleared
    ready: false,
    fin: undefined, // what Fin knows of the user

    makeReady() {
      standIn.ready = true;
      window.dispatchEvent(new CustomEvent("onEmbeddedMessagingReady"));
    },
    expire() {
      standIn.expiries += 1;
      expiredAt = performance.now();
      standIn.identityToken = undefined;
      standIn.deadline ??= setTimeout(endSession, 30_000);
      window.dispatchEvent(new CustomEvent("onEmbeddedMessagingIdentityTokenExpired"));
    },
  };
  window.standIn = standIn;

  let expiredAt;

  function endSession() {
    standIn.identityToken = undefined;
    standIn.deadline = clearTimeout(standIn.deadline);
    standIn.sessionsEnded += 1;
  }

  // The widget's whole check: no signature, no header, the browser's own clock, no leeway.
  function isCurrent(token) {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const { exp } = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return Math.floor(Date.now() / 1000) < exp;
  }

  let storm;
  function refuse() {
    standIn.expire();
    storm ??= setInterval(() => (standIn.refusing ? standIn.expire() : (storm = clearInterval(storm))), 25);
  }

  window.embeddedservice_bootstrap = {
    userVerificationAPI: {
      setIdentityToken(argument) {
        standIn.calls.push(["setIdentityToken", argument]);
        if (!standIn.ready) {
          standIn.violations.push("setIdentityToken before onEmbeddedMessagingReady");
          return false;
        }
        if (argument?.identityTokenType !== "JWT" || typeof argument.identityToken !== "string") {
          throw new Error("setIdentityToken: wrong argument");
        }
        if (standIn.refusing || !isCurrent(argument.identityToken)) {
          refuse();
          return false;
        }
        standIn.identityToken = argument.identityToken;
        standIn.waited = performance.now() - expiredAt;
        standIn.deadline = clearTimeout(standIn.deadline);
        return true;
      },
      async clearSession(shouldEndSession) {
        standIn.calls.push(["clearSession", shouldEndSession]);
        await new Promise((done) => setTimeout(done, 100));
        endSession();
      },
    },
  };

  // Every boot and update that names a user must bring the user's JWT, and Salesforce's token beside it.
  function identify(settings) {
    if (settings.user_id !== undefined && !settings.intercom_user_jwt) standIn.violations.push("403: no JWT");
    if (settings.intercom_user_jwt && !settings.salesforce_identity_token) standIn.violations.push("one token only");
    standIn.fin = { ...standIn.fin, ...settings };
  }

  window.Intercom = (method, settings = {}) => {
    standIn.calls.push([method, settings]);
    if (method === "update") identify(settings);
    if (method === "shutdown") standIn.fin = undefined;
  };

  // Both wait for the page, and take a while to load what they need.
  window.addEventListener("load", () => {
    setTimeout(() => {
      standIn.calls.push(["boot", { ...window.intercomSettings }]);
      identify(window.intercomSettings ?? {});
    }, 20);
    setTimeout(standIn.makeReady, 50);
  });
}
