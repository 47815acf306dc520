"""Mosec, as its documentation has dynamic batching and pipelines: one worker draws in batches, the next one encodes.

`python -m benchmarks.peer_apps.mosec_app --port PORT --timeout MS`: requests are JSON at /inference.
"""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

from benchmarks.peer_apps import model, options


class Draw(Worker):  # type: ignore[misc]
    """The model's process."""

    def __init__(self) -> None:
        super().__init__()
        self._model = model.Model()

    def forward(self, data: list[dict[str, Any]]) -> list[bytes]:
        return self._model.pixels([each["prompt"] for each in data], [each["seed"] for each in data])


class Encode(Worker):  # type: ignore[misc]
    """Pixels to PNG, in a process of its own, so that the next batch is drawn meanwhile."""

    resp_mime_type = "image/png"

    def forward(self, data: bytes) -> bytes:
        return model.png(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    # At least 1 ms: less is read as the default of 10.
    wait_ms = max(1, round(options.window_s() * 1000))
    server.append_worker(Draw, max_batch_size=options.MAX_BATCH, max_wait_time=wait_ms)
    server.append_worker(Encode)
    server.run()
