"""The generator's own ceiling: its rate against a server that answers every request with the same bytes.

`python -m benchmarks.load.ceiling PORT` is that server.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.report import ROOT
from cli.services import process

JOB_ID: Final = "job_" + "0" * 26 + "0"
BODY: Final = json.dumps(
    {
        "id": JOB_ID,
        "status": "succeeded",
        "created_at": 1_700_000_000.0,
        "started_at": 1_700_000_000.0,
        "finished_at": 1_700_000_000.01,
        "queue_position": None,
        "eta_seconds": None,
        "cache": "hit",
        "request": {"model": "constant", "prompt": "a red apple on a blue background", "seed": 1},
        "images": [{"url": f"/v1/images/{'0' * 64}.png", "width": 64, "height": 64, "seed": 1}],
        "timings": None,
        "warnings": [],
        "error": None,
        "urls": {"self": f"/v1/jobs/{JOB_ID}", "events": None, "cancel": f"/v1/jobs/{JOB_ID}/cancel"},
    }
).encode()
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class Constant(asyncio.Protocol):
    """As little of HTTP/1.1 as keeps a client content: requests are told apart, and not read."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(ANSWER)


@contextmanager
def constant_server() -> Iterator[str]:
    """The URL of a running constant server; ended on leaving."""
    port = process.free_port()
    command = [sys.executable, "-m", "benchmarks.load.ceiling", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise RuntimeError("The constant server did not start.")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
