"""An API at which people sign in, beside that of a running platform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cli.services import process
from tests.integration.conftest import Stack
from tests.openid.running import CLIENT, SECRET, provider


@contextmanager
def api_for_people(stack: Stack) -> Iterator[str]:
    """Its address, until the end of the block. A certified OpenID provider runs as long."""
    port = process.free_port()
    public = f"http://127.0.0.1:{port}"
    with provider(f"{public}/sign-in/callback") as issuer:
        stack.start(
            "api",
            "api-people",
            DARKROOM_PORT=str(port),
            DARKROOM_PUBLIC_URL=public,
            DARKROOM_OIDC_ISSUER=issuer,
            DARKROOM_OIDC_CLIENT_ID=CLIENT,
            DARKROOM_OIDC_CLIENT_SECRET=SECRET,
            DARKROOM_OIDC_MODERATORS="reviewers",
        )
        process.wait_until(
            lambda: process.answers(port, b"GET /readyz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
            stack.processes["api-people"],
            stack.folder / "api-people",
            90.0,
        )
        yield public
        stack.end("api-people")
