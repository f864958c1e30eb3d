// Verifies a token with jose, which fetches the keys itself.
// usage: node jose.cjs JWKS_URL TOKEN ALG ISSUER SUB -> the claims as JSON; exit code 1 on refusal
const [jwksUrl, token, alg, issuer, subject] = process.argv.slice(2);

// jose holds ES modules only, which look for nothing in NODE_PATH; require() does, and can load them.
const { createRemoteJWKSet, errors, jwtVerify } = require('jose');

// Errors of jose's that speak of the key set and not of the token.
const faults = ['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID'];
const expected = { algorithms: [alg], issuer, subject, typ: 'JWT', requiredClaims: ['exp', 'iat'] };
jwtVerify(token, createRemoteJWKSet(new URL(jwksUrl)), expected).then(
  ({ payload }) => console.log(JSON.stringify(payload)),
  (error) => {
    const refusal = error instanceof errors.JOSEError && !faults.includes(error.code);
    console.error(refusal ? `refused: ${error.code} ${error.message}` : error);
    process.exitCode = refusal ? 1 : 2;
  },
);
