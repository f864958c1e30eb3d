// Verifies a token with jose and one key that is given as JSON, as someone would who pasted it somewhere.
// usage: node jose-jwk.cjs TOKEN JWK ALG -> the claims as JSON; exit code 1 on refusal
const [token, jwk, alg] = process.argv.slice(2);
const { errors, importJWK, jwtVerify } = require('jose');

importJWK(JSON.parse(jwk)) // no algorithm beside it: the JWK must say that itself
  .then((key) => jwtVerify(token, key, { algorithms: [alg] }))
  .then(
    ({ payload }) => console.log(JSON.stringify(payload)),
    (error) => {
      const refusal = error instanceof errors.JOSEError;
      console.error(refusal ? `refused: ${error.code} ${error.message}` : error);
      process.exitCode = refusal ? 1 : 2;
    },
  );
