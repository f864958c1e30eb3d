// POST /identity-token with fastify, on as many workers as there are cores, as Node's `cluster` page has it.
//
//   SIGN=jose|jsonwebtoken node fastify.cjs
//
// Settings come from the environment: see ../harness/servers.py.
'use strict';
const cluster = require('node:cluster');
const { createHash, createPrivateKey, timingSafeEqual } = require('node:crypto');
const { readFileSync } = require('node:fs');
const { availableParallelism } = require('node:os');

const { API_KEY_SHA256, AUDIENCE, ISSUER, KEY_FILE, KID, PORT, SIGN } = process.env;
const TTL = 3600;
const digest = Buffer.from(API_KEY_SHA256, 'hex');

// Both are given the key once, parsed, and make a token of `claims`.
const signers = {
  async jose(pem) {
    const { SignJWT, importPKCS8 } = require('jose');
    const key = await importPKCS8(pem, 'RS256');
    return (claims) => new SignJWT(claims).setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid: KID }).sign(key);
  },
  async jsonwebtoken(pem) {
    const jwt = require('jsonwebtoken');
    const key = createPrivateKey(pem);
    return (claims) => jwt.sign(claims, key, { algorithm: 'RS256', keyid: KID });
  },
};

function authentic(header = '') {
  const [scheme, key] = header.split(' ', 2);
  const presented = createHash('sha256').update(key ?? '').digest();
  return timingSafeEqual(presented, digest) && scheme.toLowerCase() === 'bearer';
}

const body = {
  type: 'object',
  required: ['sub'],
  properties: { sub: { type: 'string', minLength: 1, maxLength: 200 } },
};

async function work() {
  const sign = await signers[SIGN](readFileSync(KEY_FILE, 'utf8'));
  const app = require('fastify')();
  app.get('/livez', async () => ({ status: 'ok' }));
  const onRequest = async (request, reply) => {
    if (!authentic(request.headers.authorization)) {
      return reply.code(401).header('www-authenticate', 'Bearer').send({ error: 'invalid_client' });
    }
  };
  app.post('/identity-token', { onRequest, schema: { body } }, async (request, reply) => {
    const iat = Math.floor(Date.now() / 1000);
    const exp = iat + TTL;
    const token = await sign({ iss: ISSUER, aud: AUDIENCE, sub: request.body.sub, iat, exp });
    reply.header('cache-control', 'no-store');
    return { token, token_type: 'JWT', kid: KID, issued_at: iat, expires_at: exp, expires_in: TTL };
  });
  await app.listen({ port: Number(PORT), host: '127.0.0.1' });
}

if (cluster.isPrimary) {
  for (let i = 0; i < availableParallelism(); i += 1) cluster.fork();
} else {
  work();
}
