"""A picture as the search knows it: its embedding, and what people filter by.

The engine's process embeds each finished image. The script that ends a job records one `PictureRecord`
for each of its images, beside the job, and owes it to the index. `search/` brings it there.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document

Source = Literal["generated", "imported"]
"""Where an image comes from: drawn by a worker, or brought in from elsewhere."""

SHARED: Final = ""
"""The scope of images that every tenant sees. Any other scope is a tenant's name."""


class Embedding(Document):
    """A vector of one model. Vectors of two models are never compared.

    `vector` is the base64 of little-endian float16 numbers, of length 1. `model` names the CLIP and its
    revision, as `name@revision`.
    """

    model: str
    vector: str

    def raw(self) -> bytes:
        """The bytes of the vector: two for each dimension."""
        return base64.b64decode(self.vector)

    @classmethod
    def of(cls, model: str, raw: bytes) -> Embedding:
        """The embedding of the bytes of a float16 vector."""
        return cls(model=model, vector=base64.b64encode(raw).decode("ascii"))


class PictureRecord(Document):
    """One image of the index.

    `scope` and `name` identify it; `name` is the name of its file in the blob store. Times are Unix
    seconds. The image's file may be gone after `expires_at`.
    """

    scope: str
    name: str
    embedding: Embedding | None = None
    """None: the indexer embeds the image from its file, as it does with imported images."""
    created_at: float
    expires_at: float
    source: Source = "generated"
    prompt: str = ""
    """The prompt, or the caption of an imported image."""
    model: str = ""
    lora: str = ""
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    seed: int | None = None
    job_id: str | None = None
    origin: str = ""
    """Of an imported image: the address or the path that it came from."""


class Owed(Document):
    """The message on the queue: the images of this job are owed to the index. The outbox repeats what is lost."""

    job_id: str
