// A certified OpenID provider for tests. Its one argument is JSON: { redirect, secret, accounts, inIdToken }.
// It prints its issuer once it listens. Anybody may sign in as an account, with any password.

import http from "node:http";
import { Provider } from "oidc-provider";

const { redirect, secret, accounts, inIdToken } = JSON.parse(process.argv[2]);

const server = http.createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "darkroom & co",
        ...(secret ? { client_secret: secret } : { token_endpoint_auth_method: "none" }),
        redirect_uris: [redirect],
        response_types: ["code"],
        grant_types: ["authorization_code"],
      },
    ],
    claims: { openid: ["sub"], profile: ["name", "groups"] },
    conformIdTokenClaims: !inIdToken,
    cookies: { keys: ["not a secret: tests alone use it"] },
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: false } },
    findAccount: async (_, id) => accounts[id] && { accountId: id, claims: async () => ({ sub: id, ...accounts[id] }) },
    pkce: { required: () => true },
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
