// The identity provider of test_oidc.py: npm's oidc-provider, with its own forms for login and consent. Any password will do.
//
//   node provider.mjs NODE_MODULES PORT CLIENTS       CLIENTS: a JSON object, client id -> its metadata
//
// Beside the provider's endpoints:
//   GET /test       what has happened: the grants, and the ID token of the last one
//   POST /test      sets what happens next: {"idTokenLifetime": seconds, "failing": true: the token endpoint answers 503}
//   DELETE /test    revokes all refresh tokens
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const [modules, port, clients] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const state = { grants: [], idToken: null };
const settings = { idTokenLifetime: 7200, failing: false };
const refreshTokens = new Set();

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: Object.entries(JSON.parse(clients)).map(([client_id, metadata]) => ({ client_id, ...metadata })),
  cookies: { keys: [randomBytes(32).toString("hex")] },
  jwks: { keys: [generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" })] },
  pkce: { required: () => true },
  // A second use of a refresh token revokes the whole grant.
  rotateRefreshToken: true,
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed("refresh_token"),
  ttl: { IdToken: () => settings.idTokenLifetime, RefreshToken: 86400, Session: 86400, Grant: 86400, Interaction: 600 },
});
provider.on("refresh_token.saved", (token) => refreshTokens.add(token));
provider.on("grant.success", (ctx) => {
  state.grants.push(ctx.oidc.params.grant_type);
  state.idToken = ctx.body.id_token;
});
provider.on("grant.error", (ctx, error) => state.grants.push(error.error));

const handle = provider.callback();
createServer(async (request, response) => {
  if (request.url === "/token" && settings.failing) return response.writeHead(503).end();
  if (request.url !== "/test") return handle(request, response);
  if (request.method === "POST") Object.assign(settings, await json(request));
  if (request.method === "DELETE") for (const token of refreshTokens) await token.destroy();
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(state));
}).listen(Number(port), "127.0.0.1");
