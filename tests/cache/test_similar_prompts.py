"""The prompts of a group: bounded, for a time, purged with their results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.redis_client import connect, disconnect
from cache import similar_prompts
from cache.cache_key import parameter_group, request_key, result_address, result_pattern
from cache.results import RedisResultCache
from cache.similar_prompts import SIMILAR_PREFIX, RedisSimilarPrompts
from cli.services.redis import RedisServer
from contracts.pictures import Embedding
from contracts.requests import Lora
from contracts.similar import SimilarPrompt
from tests.cache.test_cache_key import REQUEST, SPEC
from tests.store.made import result

TTL_S = 100.0
NOW = 1_000.0


def prompt(number: int, at: float = NOW) -> SimilarPrompt:
    return SimilarPrompt(
        address=f"s.m.r.{number}",
        prompt=f"a {number}",
        seed=number,
        embedding=Embedding.of("c@1", b"12"),
        at=at,
    )


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Any]:
    opened: Any = connect(redis_server.url, 20.0)
    await opened.flushall()
    yield opened
    await disconnect(opened)


@pytest.mark.anyio
async def test_the_newest_are_kept_for_a_time(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_prompts, "MAX_PROMPTS", 3)
    prompts = RedisSimilarPrompts(client, TTL_S, 20.0)
    assert await prompts.get("s.m.r.g", NOW) == []
    for number in range(5):
        await prompts.add("s.m.r.g", prompt(number, at=NOW + number))
    assert [each.seed for each in await prompts.get("s.m.r.g", NOW)] == [4, 3, 2]
    assert [each.seed for each in await prompts.get("s.m.r.g", NOW + TTL_S + 3)] == [4]
    assert await prompts.get("s.m.r.other", NOW) == []
    assert 0 < await client.ttl(f"{SIMILAR_PREFIX}s.m.r.g") <= TTL_S
    await client.lpush(f"{SIMILAR_PREFIX}s.m.r.g", "of another version")
    assert [each.seed for each in await prompts.get("s.m.r.g", NOW)] == [4, 3]


@pytest.mark.anyio
async def test_those_with_a_result_are_told(client: Any) -> None:
    prompts, results = RedisSimilarPrompts(client, TTL_S, 20.0), RedisResultCache(client, TTL_S, 20.0)
    await results.put(prompt(1).address, result())
    assert await prompts.with_results([prompt(1).address, prompt(2).address]) == {prompt(1).address}
    assert await prompts.with_results([]) == set()


@pytest.mark.anyio
async def test_they_go_with_their_results(client: Any) -> None:
    prompts, results = RedisSimilarPrompts(client, TTL_S, 20.0), RedisResultCache(client, TTL_S, 20.0)
    mine = parameter_group(REQUEST, SPEC, "tenant:a")
    for scope in ("tenant:a", "tenant:b"):
        await prompts.add(parameter_group(REQUEST, SPEC, scope), prompt(1))
    await prompts.add(mine, prompt(2))
    assert await prompts.forget(result_pattern(scope="tenant:a"), {prompt(1).address}) == 1
    assert [each.seed for each in await prompts.get(mine, NOW)] == [2]
    await results.purge(result_pattern(scope="tenant:a"))
    assert await prompts.get(mine, NOW) == []
    assert len(await prompts.get(parameter_group(REQUEST, SPEC, "tenant:b"), NOW)) == 1
    await results.purge(result_pattern(model=REQUEST.model))
    assert await client.keys(f"{SIMILAR_PREFIX}*") == []


def test_a_group_has_all_that_decides_the_pixels_but_prompt_and_seed() -> None:
    def group(scope: str = "tenant:a", **changes: Any) -> str:
        return parameter_group(REQUEST.model_copy(update=changes), SPEC, scope)

    assert group(prompt="another", seed=99, priority="batch", metadata={"a": "b"}) == group()
    assert group(embed_metadata=True) == group(embed_metadata=True, prompt="another")
    different = [
        group("tenant:b"),
        group("shared"),
        group(negative_prompt="blur", guidance_scale=2.0),
        group(negative_prompt="fog", guidance_scale=2.0),
        group(width=128),
        group(height=128),
        group(num_inference_steps=2),
        group(denoising_steps=3),
        group(num_images=2),
        group(output_format="webp"),
        group(output_format="webp", output_quality=50),
        group(embed_metadata=True),
        group(lora=Lora(name="pixel")),
        group(lora=Lora(name="pixel", scale=0.5)),
        group(init_image="inputs/1.png", strength=0.5),
        group(init_image="inputs/2.png", strength=0.5),
        group(model="n"),
    ]
    assert len({group(), *different}) == len(different) + 1
    assert parameter_group(REQUEST, SPEC.model_copy(update={"revision": "r2"}), "tenant:a") != group()
    assert parameter_group(REQUEST, SPEC.model_copy(update={"dtype": "float16"}), "tenant:a") != group()
    # It is no key of a result, and named like an address.
    assert request_key(REQUEST, SPEC, "tenant:a") not in group()
    assert group().split(".")[:3] == result_address("k", REQUEST, "tenant:a").split(".")[:3]
