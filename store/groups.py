"""One script call for many jobs, with an answer for each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from store.key_names import Layout
from store.scripts import Scripts, as_json

MAX_GROUP: Final = 64
"""Jobs in one call. The server does nothing else meanwhile."""


async def run_many(
    scripts: Scripts, layout: Layout, name: str, documents: Sequence[dict[str, Any]]
) -> list[Any]:
    """The script's answer to each document, in their order. Each document names its job as `id`.

    Jobs of one shard share calls of up to `MAX_GROUP`. If a call fails, its error is the answer to
    every job in it, and to no other.
    """
    by_prefix: dict[str, list[int]] = defaultdict(list)
    for place, document in enumerate(documents):
        by_prefix[layout.job_prefix(document["id"])].append(place)
    answers: list[Any] = [None] * len(documents)

    async def run_group(prefix: str, places: Sequence[int]) -> None:
        try:
            results = await scripts.run(name, prefix, as_json([documents[place] for place in places]))
        except Exception as error:  # noqa: BLE001 - any error is the answer of these jobs alone
            results = [error] * len(places)
        for place, answer in zip(places, results, strict=True):
            answers[place] = answer

    await asyncio.gather(
        *(
            run_group(prefix, places[begin : begin + MAX_GROUP])
            for prefix, places in by_prefix.items()
            for begin in range(0, len(places), MAX_GROUP)
        )
    )
    return answers
