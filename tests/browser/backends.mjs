// The web backends of examples/, each started as its reader would start it.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { repo, tools } from "./harness.mjs";
import { environment, freePort } from "./tokenmint.mjs";

const installed = join(tools, "examples"); // by tests/examples/setup

// In its own folder. FastAPI's takes the port from uvicorn's command line, the others from PORT.
const COMMANDS = {
  express: () => ["node", "app.js"],
  fastapi: (port) => [join(installed, "venv/bin/python"), "-m", "uvicorn", "app:app", "--port", port],
  rails: () => ["ruby", "bin/rails", "server"],
  sinatra: () => ["ruby", "app.rb"],
};

export const BACKENDS = Object.keys(COMMANDS);

export class Backend {
  #process;
  #folder = mkdtempSync(join(tmpdir(), "tokenmint-backend-"));
  #said = "";

  static async start(name, tokenmint) {
    const backend = new Backend();
    await backend.#start(name, tokenmint).catch(async (error) => {
      await backend.remove();
      throw error;
    });
    return backend;
  }

  async #start(name, tokenmint) {
    // Copied: its packages must lie beside it, and must not lie in the repository.
    cpSync(join(repo, "examples"), this.#folder, { recursive: true });
    const cwd = join(this.#folder, name);
    if (name === "express") symlinkSync(join(installed, "node/node_modules"), join(cwd, "node_modules"));
    const PORT = String(await freePort());
    this.url = `http://127.0.0.1:${PORT}`;
    const own = { TOKENMINT_URL: tokenmint.url, TOKENMINT_API_KEY: tokenmint.apiKey, PORT };
    const env = { ...environment, ...own, SESSION_SECRET: randomBytes(64).toString("hex") };
    for (const variable of Object.keys(env)) if (/_proxy$/i.test(variable)) delete env[variable]; // all is on loopback
    const [program, ...words] = COMMANDS[name](PORT);
    const child = spawn(program, words, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    child.once("error", (error) => (this.#said += error.message));
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (this.#said += text));
    for (let patience = 600; patience > 0 && this.#runs(); patience -= 1) {
      if (await fetch(this.url).catch(() => undefined)) return;
      await sleep(50);
    }
    throw new Error(`${name} doesn't run. Its last words:\n${this.#said.slice(-4000)}`);
  }

  #runs() {
    return this.#process?.pid !== undefined && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  async remove() {
    if (this.#runs()) {
      const ended = new Promise((done) => this.#process.once("exit", done));
      this.#process.kill("SIGKILL");
      await ended;
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
