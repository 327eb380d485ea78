// An OpenID provider for tests: node provider.js PORT KEYS, where KEYS is a file that keeps its private keys.
// A line "rotate" on stdin makes a new signing key and publishes it beside the former one; each step is one line on stdout.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const [port, file] = [Number(process.argv[2]), process.argv[3]];
const issuer = `http://127.0.0.1:${port}`;

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

function handlerFor(keys) {
  writeFileSync(file, JSON.stringify(keys));
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: ['alice', 'bob'].map((client_id) => ({
      client_id,
      client_secret: `${client_id}-secret`,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })),
    cookies: { keys: ['only for tests'] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, audience) => ({
          scope: 'items:read items:write',
          audience,
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  return provider.callback();
}

let keys = existsSync(file) ? JSON.parse(readFileSync(file)) : [newKey()];
let handler = handlerFor(keys);

createInterface({ input: process.stdin })
  .on('line', () => {
    keys = [newKey(), keys[0]];
    handler = handlerFor(keys);
    console.log(`signs with ${keys[0].kid}`);
  })
  .on('close', () => process.exit(0));

createServer((request, response) => handler(request, response)).listen(port, '127.0.0.1', () => {
  console.log(`signs with ${keys[0].kid}`);
});
