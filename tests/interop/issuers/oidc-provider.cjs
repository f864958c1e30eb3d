// Runs oidc-provider, unchanged, with its own login pages for developers.
// usage: node oidc-provider.cjs PORT CLIENT...
//
// Each CLIENT gets ID tokens (RS256) of users who log in. The client `backend` gets JWT access tokens (ES256, RFC 9068) by client
// credentials, for the resource that it names (RFC 8707).
const { generateKeyPairSync } = require('node:crypto');

const [port, ...clients] = process.argv.slice(2);
const client_secret = 'secret-of-the-tests';
const backend = { client_id: 'backend', client_secret, grant_types: ['client_credentials'], response_types: [], redirect_uris: [] };
const website = (client_id) => ({ client_id, client_secret, redirect_uris: ['https://app.example/callback'] });

function jwk(kid, alg, type, options) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' };
}

const configuration = {
  clients: [backend, ...clients.map(website)],
  cookies: { keys: ['key-of-the-tests'] },
  jwks: { keys: [jwk('rsa', 'RS256', 'rsa', { modulusLength: 2048 }), jwk('ec', 'ES256', 'ec', { namedCurve: 'P-256' })] },
  pkce: { required: () => false },
  ttl: { ClientCredentials: 600, IdToken: 600 },
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, audience) => ({ audience, scope: '', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
    },
  },
};

// An ES module, which looks for nothing in NODE_PATH; require.resolve() does.
import(require.resolve('oidc-provider')).then(({ Provider }) => {
  new Provider(`http://127.0.0.1:${port}`, configuration).listen(Number(port), '127.0.0.1');
});
