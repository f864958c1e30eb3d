// Verifies a token with jsonwebtoken, whose keys jwks-rsa fetches: the usual pair of Express applications.
// usage: node jwks-rsa.cjs JWKS_URL TOKEN ALG ISSUER SUB -> the claims as JSON; exit code 1 on refusal
const [jwksUri, token, alg, issuer, subject] = process.argv.slice(2);
const jsonwebtoken = require('jsonwebtoken');
const { JwksClient, SigningKeyNotFoundError } = require('jwks-rsa');

const client = new JwksClient({ jwksUri });
let broken;

// jsonwebtoken wraps what goes wrong here into an error of its own, so only here can a fault be told from a refusal.
function publicKey(header, done) {
  client.getSigningKey(header.kid).then(
    (key) => done(null, key.getPublicKey()),
    (error) => {
      if (!(error instanceof SigningKeyNotFoundError)) broken = error;
      done(error);
    },
  );
}

jsonwebtoken.verify(token, publicKey, { algorithms: [alg], issuer, subject }, (error, claims) => {
  if (!error) return console.log(JSON.stringify(claims));
  const refusal = !broken && error instanceof jsonwebtoken.JsonWebTokenError;
  console.error(refusal ? `refused: ${error.message}` : broken ?? error);
  process.exitCode = refusal ? 1 : 2;
});
