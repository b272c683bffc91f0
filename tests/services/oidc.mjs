// Real OpenID providers (npm oidc-provider), one per realm: `node oidc.mjs
// CLIENT SECRET NAME=PORT …`. Each has keys of its own, made at its start, and
// gives its one client access tokens for us (RFC 9068).
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const [client_id, client_secret, ...realms] = process.argv.slice(2);

function key(type, options, alg) {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' });
  return { ...jwk, use: 'sig', alg, kid: randomBytes(8).toString('hex') };
}

function provider(issuer, realm) {
  return new Provider(issuer, {
    clients: [{
      client_id, client_secret, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    }],
    jwks: { keys: [key('rsa', { modulusLength: 2048 }, 'RS256'), key('ec', { namedCurve: 'P-256' }, 'ES256')] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    extraTokenClaims: () => ({ groups: ['workers', realm] }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:ringfence',
        getResourceServerInfo: (_, resource) => ({
          scope: 's3',
          // What is asked for names the algorithm and the audience.
          audience: resource.split(':')[2] ?? 'ringfence',
          accessTokenTTL: 300,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: resource.split(':')[3] ?? 'RS256' } },
        }),
      },
    },
  });
}

for (const realm of realms) {
  const [name, port] = realm.split('=');
  const issuer = `http://127.0.0.1:${port}`;
  await new Promise((up) => provider(issuer, name).listen(Number(port), '127.0.0.1', up));
}
console.log('ready');
