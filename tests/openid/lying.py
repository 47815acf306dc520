"""An OpenID provider on a socket that answers whatever a test wants: wrong tokens, wrong documents, nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = "studio"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


@dataclass
class Liar:
    """What the provider says. `nonce` is that of the sign-in; `asked` has the forms of the token endpoint."""

    issuer: str = ""
    nonce: str = ""
    offer: dict[str, Any] = field(default_factory=dict)
    keys: list[RSAKey] = field(default_factory=lambda: [KEY])
    token: Callable[[Liar], str] | None = None
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Status and body by path, in place of what belongs there."""
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims of a good token, but for what is `changed`. None leaves a claim out."""
        now = int(time.time())
        good = {
            "iss": self.issuer,
            "sub": "7",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": self.nonce,
            "name": "Ada",
            "groups": ["reviewers"],
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def signed(self, key: RSAKey = KEY, **changed: Any) -> str:
        """A token of these claims, with the key's name."""
        return jwt.encode({"alg": "RS256", "kid": key.kid}, self.claims(**changed), key)

    def answer(self, path: str, form: str) -> tuple[int, bytes]:
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            offer = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
            return 200, json.dumps({**offer, **self.offer}).encode()
        if path == "/keys":
            return 200, json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()
        if path == "/token":
            self.asked.append(parse_qs(form))
            token = self.signed() if self.token is None else self.token(self)
            return 200, json.dumps({"access_token": "at", "token_type": "Bearer", "id_token": token}).encode()
        return 404, b""


@contextmanager
def lying() -> Iterator[Liar]:
    """A provider that listens until the end of the block."""
    liar = Liar()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, body = liar.answer(self.path, self.rfile.read(length).decode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the name is of the library

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    liar.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
