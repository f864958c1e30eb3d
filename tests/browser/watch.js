// Runs before a page's own scripts: what the tests see of its requests, and of a page that was left.
{
  const { fetch } = window;
  window.fetches = []; // when
  window.unanswered = 0;
  window.fetch = async (...request) => {
    window.fetches.push(performance.now());
    window.unanswered += 1;
    try {
      const answer = await fetch(...request);
      await answer.clone().arrayBuffer(); // whole, so that an answered request needs no more time
      return answer;
    } finally {
      window.unanswered -= 1;
    }
  };

  window.addEventListener("pagehide", () => {
    if (!window.standIn || location.protocol === "about:") return;
    const { calls, identityToken, sessionsEnded, fin } = window.standIn;
    const page = { calls, identityToken, sessionsEnded, fin, settings: window.intercomSettings, at: performance.now() };
    sessionStorage.setItem("left", JSON.stringify(page));
  });
}
