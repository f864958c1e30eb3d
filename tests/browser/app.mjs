// Plays the user's web app: a login, a page, a route that gives the signed-in user's tokens.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const json = (value) => JSON.stringify(value ?? null).replaceAll("<", "\\u003c");
const scripts = { "/tokenmint.js": read("../../examples/browser/tokenmint.js"), "/stand-in.js": read("stand-in.js") };
const pageSource = read("page.html");

export class App {
  embedded = true; // whether the page brings its tokens along
  misbehave = undefined; // (response) => …: answers GET /chat-tokens in the app's place
  requests = []; // of GET /chat-tokens: { at, headers, retryAfter }

  static async start(tokenmint) {
    const app = new App();
    app.tokenmint = tokenmint;
    app.server = createServer((request, response) =>
      app.#answer(request, response).catch((error) => {
        console.error(error);
        response.destroy();
      }),
    );
    await new Promise((done) => app.server.listen(0, "127.0.0.1", done));
    app.url = `http://127.0.0.1:${app.server.address().port}`;
    return app;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  // As each app of examples/: the subject is the session's, the time is limited, and without tokenmint there are no tokens.
  async #ask(user) {
    try {
      const answer = await this.tokenmint.post("/bundle", user);
      if (answer.status === 200) return { status: 200, body: await answer.json() };
      return { status: answer.status === 429 ? 429 : 204, retryAfter: answer.headers.get("Retry-After") };
    } catch {
      return { status: 204 };
    }
  }

  async #answer(request, response) {
    const user = /(?:^|; )user=([^;]+)/.exec(request.headers.cookie ?? "")?.[1]; // of a test, so it is not signed
    const route = `${request.method} ${request.url}`;
    response.setHeader("Cache-Control", "no-store");
    if (route === "GET /") {
      const initial = user && this.embedded ? (await this.#ask(user)).body ?? null : undefined;
      response.setHeader("Content-Type", "text/html");
      response.end(pageSource.replace("{{page}}", () => json({ user, initial })));
    } else if (route === "GET /chat-tokens") {
      this.requests.push({ at: performance.now(), headers: request.headers });
      if (this.misbehave) return this.misbehave(response);
      const { status, body, retryAfter } = user ? await this.#ask(user) : { status: 401 };
      this.requests.at(-1).retryAfter = retryAfter;
      if (retryAfter) response.setHeader("Retry-After", retryAfter);
      response.setHeader("Content-Type", "application/json");
      response.writeHead(status).end(body && JSON.stringify(body));
    } else if (route === "POST /login") {
      let form = "";
      for await (const text of request) form += text;
      const name = encodeURIComponent(new URLSearchParams(form).get("user"));
      response.writeHead(303, { Location: "/", "Set-Cookie": `user=${name}; HttpOnly; SameSite=Lax` }).end();
    } else if (route === "POST /logout") {
      response.writeHead(303, { Location: "/", "Set-Cookie": "user=; Max-Age=0" }).end();
    } else if (request.url in scripts) {
      response.setHeader("Content-Type", "text/javascript");
      response.end(scripts[request.url]);
    } else {
      response.writeHead(204).end(); // favicon.ico
    }
  }
}
