"""LitServe, as its documentation has batching: `max_batch_size`, `batch_timeout`, a predict of lists, and its fast queue.

`python -m benchmarks.peer_apps.litserve_app`: requests are JSON at /predict.
"""

from __future__ import annotations

from typing import Any

import litserve
from fastapi import Response

from benchmarks.peer_apps import model, options


class Painter(litserve.LitAPI):  # type: ignore[misc]
    """Everything here but the HTTP is done by the inference worker, which is the model's process."""

    def setup(self, device: str) -> None:
        self._model = model.Model()

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, batch: list[dict[str, Any]]) -> list[bytes]:
        return self._model.draw([each["prompt"] for each in batch], [each["seed"] for each in batch])

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    server = litserve.LitServer(
        Painter(max_batch_size=options.MAX_BATCH, batch_timeout=options.window_s()),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=options.port(),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
