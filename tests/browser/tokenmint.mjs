// A real tokenmint: set up as its README says, started, stopped, started again.
import { execFileSync, spawn } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const binary = process.env.TOKENMINT_BIN && resolve(process.env.TOKENMINT_BIN);
if (!binary) throw new Error("TOKENMINT_BIN is not set: give it the path of the tokenmint binary to test");

export const KID = "WebAppKey1";
export const ISSUER = "intercom.com";

// Ours without TOKENMINT_*: those are configuration to tokenmint.
export const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("TOKENMINT_")));

// As tests/ports.py: each once, below those that clients' ends get.
const [firstPort, behindLastPort] = [15000, 32000];
let nextPort = randomInt(firstPort, behindLastPort);

export async function freePort() {
  for (;;) {
    const port = nextPort++;
    if (nextPort === behindLastPort) nextPort = firstPort;
    const probe = createServer();
    const isFree = await new Promise((done) => {
      probe.once("error", () => done(false)).listen(port, "127.0.0.1", () => done(true));
    });
    if (!isFree) continue;
    await new Promise((done) => probe.close(done));
    return port;
  }
}

export class Tokenmint {
  #process;
  #folder = mkdtempSync(join(tmpdir(), "tokenmint-browser-"));
  #config = join(this.#folder, "tokenmint.toml");

  static async start() {
    const made = new Tokenmint();
    await made.#setUp();
    await made.start();
    return made;
  }

  async #setUp() {
    const init = ["init", this.#folder, "--issuer", ISSUER, "--kid", KID, "--json"];
    this.apiKey = JSON.parse(execFileSync(binary, init, { env: environment })).api_key;
    this.intercomSecret = randomBytes(32).toString("hex");
    this.listen = `127.0.0.1:${await freePort()}`;
    this.url = `http://${this.listen}`;
    this.jwksUrl = `${this.url}/keysets/web/jwks.json`;
    const config = readFileSync(this.#config, "utf8")
      .replace("127.0.0.1:8080", this.listen)
      .replace('listen =', 'state_directory = "state"\nlisten =')
      .replace('allow = ["identity.web"]', 'allow = ["identity.web", "intercom.fin", "bundles.fin"]');
    writeFileSync(this.#config, config);
    appendFileSync(
      this.#config,
      `
[intercom.fin]
secret = "${this.intercomSecret}"

[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
`,
    );
  }

  async start() {
    let said = "";
    const child = spawn(binary, ["serve", "--config", this.#config], { env: environment, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (said = (said + text).slice(-4000)));
    this.#process = child;
    for (let patience = 400; patience > 0; patience -= 1) {
      const ready = await fetch(`${this.url}/readyz`).catch(() => undefined);
      if (ready?.ok) return;
      if (child.exitCode !== null) break;
      await sleep(50);
    }
    child.kill("SIGKILL");
    throw new Error(`tokenmint serve did not become ready. Its last words:\n${said}`);
  }

  // What a web backend asks, within the second that it has.
  post(path, user) {
    return fetch(this.url + path, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.apiKey}`, "Content-Type": "application/json" },
      body: JSON.stringify({ sub: user }),
      signal: AbortSignal.timeout(1000),
    });
  }

  async stop() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGTERM");
    await ended;
  }

  async remove() {
    await this.stop();
    rmSync(this.#folder, { recursive: true });
  }
}
