"""BentoML, as its documentation has adaptive batching of several parameters: a service that batches, and one in front of it.

`bentoml serve benchmarks.peer_apps.bentoml_app:Front`: requests are JSON at /draw. Its window is not a wait but the latency
that its dispatcher plans for; what it predicts to take longer it refuses with 503.
"""

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from pydantic import BaseModel

from benchmarks.peer_apps import options


class Wanted(BaseModel):
    prompt: str
    seed: int


SETTINGS: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": 60},
    "logging": {"access": {"enabled": False}},
}


@bentoml.service(threads=1, **SETTINGS)
class Painter:
    """The model's process."""

    def __init__(self) -> None:
        from benchmarks.peer_apps import model

        self._model = model.Model()

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=options.MAX_BATCH, max_latency_ms=round(options.window_s() * 1000)
    )
    def draw(self, wanted: list[Wanted]) -> list[bytes]:
        return self._model.draw([each.prompt for each in wanted], [each.seed for each in wanted])


@bentoml.service(**SETTINGS)
class Front:
    """Takes one request, and hands it to the service that batches as a list of one."""

    painter = bentoml.depends(Painter)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def draw(self, prompt: str, seed: int) -> Annotated[bytes, ContentType("image/png")]:
        pictures = await self.painter.to_async.draw([Wanted(prompt=prompt, seed=seed)])
        picture: bytes = pictures[0]
        return picture
