// Runs oauth2-mock-server, unchanged.
// usage: node oauth2-mock-server.cjs PORT
//
// For each line of its input, it has one more key. It signs with its keys in turn.
const { createInterface } = require('node:readline');

const [port] = process.argv.slice(2);

// An ES module, which looks for nothing in NODE_PATH; require.resolve() does.
import(require.resolve('oauth2-mock-server')).then(async ({ OAuth2Server }) => {
  const server = new OAuth2Server();
  // Its own hook. Without it, the subject of each ID token is the same.
  server.service.on('beforeTokenSigning', ({ payload }, { body }) => {
    payload.sub = body.username;
  });
  await server.issuer.keys.generate('RS256');
  await server.start(Number(port), '127.0.0.1');
  for await (const _ of createInterface({ input: process.stdin })) {
    await server.issuer.keys.generate('RS256');
  }
});
