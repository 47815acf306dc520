"""Looks requests up as a deployment does, and counts what answers them: their own result, another's, or none."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from backends.redis_client import connect, disconnect
from benchmarks.arms.paraphrases import WORDINGS, Meaning, traffic
from benchmarks.load import corpus
from cache.results import RedisResultCache
from cache.similar_prompts import RedisSimilarPrompts
from contracts.jobs import JobResult, Timings
from contracts.similar import SimilarQuery
from runtime.clock import SystemClock
from search.clip import ClipModel
from search.embedder import Embedder
from search.similar import SimilarPrompts

TTL_S: Final = 86_400.0
NOTHING: Final = JobResult(images=(), timings=Timings(queued_ms=0, batch_ms=0, encode_ms=0, batch_size=1))


async def answered(
    similar: SimilarPrompts,
    results: RedisResultCache,
    group: str,
    requests: list[tuple[Meaning, str]],
    floor: float,
) -> dict[str, Any]:
    """How many requests were drawn, had a result of their own, or were answered by another's, rightly and wrongly."""
    counts = {"exact": 0, "similar": 0, "wrong": 0, "drawn": 0}
    drawn: dict[str, Meaning] = {}
    times_ms = []
    for meaning, prompt in requests:
        if prompt in drawn:
            counts["exact"] += 1
            continue
        query = SimilarQuery(group=group, address=prompt, prompt=prompt, own_seed=0, floor=floor)
        begun = time.perf_counter()
        answer = await similar.find(query)
        times_ms.append((time.perf_counter() - begun) * 1000)
        if not answer.matches:
            counts["drawn"] += 1
            drawn[prompt] = meaning
            await results.put(prompt, NOTHING)
        else:
            counts["similar"] += 1
            counts["wrong"] += drawn[answer.matches[0].address] != meaning
    return {**counts, "times_ms": times_ms}


async def measured(url: str, model: ClipModel, floor: float, count: int, repeats: float) -> dict[str, Any]:
    """The counts of both kinds of traffic."""
    client, embedder = connect(url, 10.0), Embedder(model)
    similar = SimilarPrompts(RedisSimilarPrompts(client, TTL_S, 10.0), embedder, SystemClock(), floor)
    results = RedisResultCache(client, TTL_S, 10.0)
    found = {}
    for name, wordings in (("plain", WORDINGS[:1]), ("paraphrased", WORDINGS)):
        rng = np.random.default_rng(1)
        ranks = corpus.draw(count, 100_000, repeats, rng).ranks
        requests = traffic(list(map(int, ranks)), wordings, rng)
        found[name] = await answered(similar, results, name, requests, floor)
        await client.flushall()
    embedder.close()
    await disconnect(client)
    return found
