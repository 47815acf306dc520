"""celery-batches on RabbitMQ, as its documentation has it, with FastAPI in front: the stock way to put a model behind a queue.

`celery -A benchmarks.peer_apps.celery_app worker --pool prefork --concurrency 1`, and
`uvicorn benchmarks.peer_apps.celery_app:front`: requests are JSON at /draw.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from celery import Celery
from celery.signals import worker_process_init
from celery_batches import Batches, SimpleRequest
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.peer_apps import options

TIMEOUT_S: Final = 60.0

app = Celery("peer", broker=os.environ[options.BROKER], backend=os.environ[options.BACKEND])
app.conf.update(
    task_serializer="json",
    # Pickle carries the bytes of a picture as they are.
    result_serializer="pickle",
    accept_content=["json"],
    result_accept_content=["pickle"],
    result_expires=300,
    # What is at hand must fill a batch while another runs.
    worker_prefetch_multiplier=2 * options.MAX_BATCH,
)
front = FastAPI()
_models: list[Any] = []


@worker_process_init.connect  # type: ignore[untyped-decorator]
def load(**_: Any) -> None:
    """In the child process, which draws: the parent, which gathers, and the front need no torch."""
    from benchmarks.peer_apps import model

    _models.append(model.Model())


@app.task(base=Batches, flush_every=options.MAX_BATCH, flush_interval=options.window_s())  # type: ignore[untyped-decorator]
def draw(requests: Sequence[SimpleRequest]) -> None:
    pictures = _models[0].draw([each.args[0] for each in requests], [each.args[1] for each in requests])
    for request, picture in zip(requests, pictures, strict=True):
        app.backend.mark_as_done(request.id, picture, request=request)


class Wanted(BaseModel):
    prompt: str
    seed: int


@front.post("/draw")
async def submit(wanted: Wanted) -> Response:
    picture = await asyncio.to_thread(_drawn, wanted)
    return Response(picture, media_type="image/png")


def _drawn(wanted: Wanted) -> bytes:
    result = draw.delay(wanted.prompt, wanted.seed)
    picture: bytes = result.get(timeout=TIMEOUT_S)
    return picture
