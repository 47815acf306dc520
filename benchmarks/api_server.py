"""`python -m benchmarks.api_server`: the API as it is served, with one route more, that answers a constant.

`POST /constant` answers `DARKROOM_BENCH_BYTES` bytes of JSON through the same server, middleware and routing as all others.
"""

from __future__ import annotations

import asyncio
import os
import sys

from starlette.responses import Response

from api.__main__ import build, serve
from contracts.settings import ApiSettings
from telemetry import logs


def main() -> int:
    settings = ApiSettings.from_env()
    logs.configure(settings, service="api")
    app = build(settings)
    body = b'"' + b"x" * (int(os.environ["DARKROOM_BENCH_BYTES"]) - 2) + b'"'

    @app.post("/constant", include_in_schema=False)
    async def constant() -> Response:
        return Response(body, media_type="application/json")

    return 0 if asyncio.run(serve(app, settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
