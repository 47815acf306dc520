"""Ray Serve, as its documentation has dynamic request batching: `serve.batch` in one replica, behind its HTTP proxy.

`python -m benchmarks.peer_apps.ray_app`: requests are JSON at /draw. The batch runs on a thread, so that the replica goes on
taking requests meanwhile: without that, each batch begins with what little the event loop has let in.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peer_apps import options

AHEAD = 1024
"""Requests that the replica takes: its own queue forms the batches, so it must hold them."""


@serve.deployment(num_replicas=1, max_ongoing_requests=AHEAD, ray_actor_options={"num_cpus": 1})
class Painter:
    """The replica is the model's process."""

    def __init__(self) -> None:
        from benchmarks.peer_apps import model

        self._model = model.Model()

    @serve.batch(max_batch_size=options.MAX_BATCH, batch_wait_timeout_s=options.window_s())  # type: ignore[untyped-decorator]
    async def draw(self, wanted: list[dict[str, Any]]) -> list[bytes]:
        prompts, seeds = [each["prompt"] for each in wanted], [each["seed"] for each in wanted]
        return await asyncio.to_thread(self._model.draw, prompts, seeds)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.draw(await request.json()), media_type="image/png")


def main() -> None:
    folder = os.environ[options.FOLDER]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"{folder}/ray")
    serve.start(http_options={"host": "127.0.0.1", "port": options.port()})
    serve.run(Painter.bind(), route_prefix="/draw")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
