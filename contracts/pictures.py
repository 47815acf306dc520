"""A picture as the search knows it: its embedding, and what people filter by.

The engine's process embeds each finished image. The script that ends a job records one `PictureRecord`
for each of its images, beside the job, and owes it to the index. `search/` brings it there.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document

Source = Literal["generated", "imported"]
"""Where an image comes from: drawn by a worker, or brought in from elsewhere."""

SHARED: Final = ""
"""The scope of images that every tenant sees. Any other scope is a tenant's name."""


MAX_CAPTION_CHARS: Final = 2_000
"""The longest caption of an imported image."""
MAX_ORIGIN_CHARS: Final = 2_048
"""The longest address or path that an imported image may come from."""
IMPORT: Final = "import_"
"""How ids of imported images begin."""


def import_id(tenant: str, name: str) -> str:
    """The id under which an imported image is recorded, where a drawn one has that of its job.

    As in a job's id, the last digit says where the record lies: it is the first digit of `name`, the
    name of the image's file.
    """
    digest = hashlib.sha256(f"{tenant} {name}".encode()).hexdigest()
    return f"{IMPORT}{digest[:32]}{name[0]}"


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
    """The id of its job; of an imported image, its `import_id`."""
    origin: str = ""
    """Of an imported image: the address or the path that it came from."""


class Owed(Document):
    """The message on the queue: the images of these jobs are owed to the index. The outbox repeats what is lost.

    A process of an earlier version reads only `job_id`. The outbox then repeats the others.
    """

    job_id: str
    more: tuple[str, ...] = ()

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The ids of all these jobs, or of imported images."""
        return (self.job_id, *self.more)
