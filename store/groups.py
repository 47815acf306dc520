"""One script call for many jobs, each answered for itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from store.key_names import Layout
from store.scripts import Scripts, as_json

MAX_GROUP: Final = 64
"""Jobs in one call: the server does nothing else meanwhile."""


async def run_many(
    scripts: Scripts, layout: Layout, name: str, documents: Sequence[dict[str, Any]]
) -> list[Any]:
    """What the script answers to each document, which names its job as `id`. Jobs of one shard share a call. An error of a call is the
    answer to all in it, and to them alone."""
    by_prefix: dict[str, list[int]] = defaultdict(list)
    for place, document in enumerate(documents):
        by_prefix[layout.job_prefix(document["id"])].append(place)
    answers: list[Any] = [None] * len(documents)

    async def one(prefix: str, places: Sequence[int]) -> None:
        try:
            found = await scripts.run(name, prefix, as_json([documents[place] for place in places]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer of these jobs alone
            found = [error] * len(places)
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer

    await asyncio.gather(
        *(
            one(prefix, places[begin : begin + MAX_GROUP])
            for prefix, places in by_prefix.items()
            for begin in range(0, len(places), MAX_GROUP)
        )
    )
    return answers
