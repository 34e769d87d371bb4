// A real OpenID provider (oidc-provider, certified) on loopback: node oidc.mjs PORT CERT KEY KID.
// Its one client gets access tokens for redis-certauth, as JWTs.
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import * as oidc from "oidc-provider";

const [port, certificate, key, kid] = process.argv.slice(2);
const made = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const resource = {
  scope: "redis", audience: "redis-certauth", accessTokenTTL: 600, accessTokenFormat: "jwt",
  jwt: { sign: { alg: "RS256" } },
};
const Provider = oidc.Provider ?? oidc.default;
const provider = new Provider(`https://127.0.0.1:${port}`, {
  clients: [{
    client_id: "cart", client_secret: "a secret of the test's", redirect_uris: [],
    grant_types: ["client_credentials"], response_types: [],
  }],
  cookies: { keys: ["a key of the test's"] },
  jwks: { keys: [{ ...made.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:redis-certauth",
      getResourceServerInfo: () => resource,
    },
  },
});
const files = { cert: readFileSync(certificate), key: readFileSync(key) };
createServer(files, provider.callback()).listen(Number(port), "127.0.0.1", () => {
  console.log("ready");
});
