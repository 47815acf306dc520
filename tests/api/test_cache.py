"""Cache control by request, and the operator's view of the cache."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import ADMIN, ApiUnderTest, Opener

pytestmark = pytest.mark.anyio


async def test_every_answer_says_how_the_cache_took_it(api: ApiUnderTest) -> None:
    miss = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    joined = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    await api.work()
    hit = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    for response, expected in ((miss, "miss"), (joined, "joined"), (hit, "hit")):
        assert response.headers["x-cache"] == expected == response.json()["cache"]
        read = await api.http.get(response.headers["location"])
        assert read.headers["x-cache"] == expected
    assert len({response.headers["x-cache-key"] for response in (miss, joined, hit)}) == 1


async def test_refresh_computes_anew_and_fills_the_cache(api: ApiUnderTest) -> None:
    await api.submit()
    await api.work()
    assert (await api.submit(cache="refresh"))["cache"] == "miss"
    assert (await api.submit(cache="refresh"))["cache"] == "joined", "fresh enough: it is being computed"
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.json()["cache"] == "hit", "others are served meanwhile"
    await api.work()
    assert len(api.publisher.published) == 2
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "cache": "use"})
    assert response.json()["cache"] == "hit"


async def test_off_shares_nothing_and_leaves_nothing(api: ApiUnderTest) -> None:
    first, second = await api.submit(cache="off"), await api.submit(cache="off")
    assert first["cache"] == second["cache"] == "miss"
    assert first["request"]["seed"] == second["request"]["seed"], "the same picture all the same"
    for message in api.publisher.published:
        await api.work(message)
    assert (await api.submit())["cache"] == "miss"
    await api.work()
    assert (await api.submit(cache="off"))["cache"] == "miss"


async def test_the_operator_sees_hits_and_size(api: ApiUnderTest) -> None:
    assert (await api.http.get("/v1/cache", headers=ADMIN)).json()["hit_rate"] is None
    await api.submit()
    await api.submit()
    await api.work()
    for _ in range(2):
        await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    view = (await api.http.get("/v1/cache", headers=ADMIN)).json()
    assert (view["hits"], view["misses"], view["joined"], view["entries"]) == (2, 1, 1, 1)
    assert (view["hit_rate"], view["saved_rate"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("params", "purged"),
    [
        ({"model": "m"}, 1),
        ({"model": "m", "revision": "1"}, 1),
        ({"model": "m", "revision": "2"}, 0),
        ({"tenant": "public"}, 1),
        ({"tenant": "*"}, 0),
        ({"tenant": "public", "model": "n"}, 0),
    ],
)
async def test_a_purge_forgets_what_it_names(api: ApiUnderTest, params: dict[str, str], purged: int) -> None:
    await api.submit()
    await api.work()
    response = await api.http.delete("/v1/cache", params=params, headers=ADMIN)
    assert response.json() == {"purged": purged}
    again = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert again.json()["cache"] == ("miss" if purged else "hit")


async def test_a_purge_by_key(api: ApiUnderTest) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    await api.work()
    key = response.headers["x-cache-key"]
    assert (await api.http.delete("/v1/cache", params={"key": key}, headers=ADMIN)).json() == {"purged": 1}
    assert (await api.submit())["cache"] == "miss"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "key"),
        ({"key": "x"}, "key"),
        ({"key": "*"}, "key"),
        ({"model": ""}, "model"),
        ({"tenant": "x" * 201}, "tenant"),
    ],
)
async def test_a_purge_of_nothing_in_particular_is_refused(
    api: ApiUnderTest, params: Any, field: str
) -> None:
    response = await api.http.delete("/v1/cache", params=params, headers=ADMIN)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field)


async def test_a_cache_mode_that_is_none_is_refused(api: ApiUnderTest) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "cache": "no"})
    assert response.json()["error"]["message"] == "cache must be use, refresh, off or similar."


async def test_a_hit_is_written_as_any_other_answer(api: ApiUnderTest) -> None:
    await api.submit(seed=7)
    await api.work()
    for _ in range(3):
        api.clock.advance(1.25)
        hit = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})
        read = await api.http.get(hit.headers["location"])
        assert hit.json()["cache"] == "hit"
        assert hit.text == read.text, "to the letter"
    other = await api.http.post("/v1/jobs", json={"prompt": "A RED APPLE", "seed": 7})
    assert other.json()["request"]["prompt"] == "A RED APPLE"
    held = await api.http.post(
        "/v1/jobs", json={"prompt": "a red apple", "seed": 7}, headers={"Prefer": "wait=3"}
    )
    assert held.headers["preference-applied"] == "wait=3"


@pytest.mark.parametrize(
    "settings",
    [{}, {"similar_floor": 0.9}, {"search_url": "http://127.0.0.1:9"}],
    ids=["none", "floor", "search"],
)
async def test_similar_answers_need_a_floor_and_a_search(opened: Opener, settings: dict[str, Any]) -> None:
    api = await opened(**settings)
    answer = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "cache": "similar"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "cache")
    assert "DARKROOM_SIMILAR_FLOOR" in answer.json()["error"]["message"]


async def test_a_similar_answer_that_cannot_be_looked_for_is_drawn(opened: Opener) -> None:
    api = await opened(similar_floor=0.9, search_url="http://127.0.0.1:9")
    body = {"prompt": "a red apple", "cache": "similar", "seed": 7}
    drawn = (await api.http.post("/v1/jobs", json=body)).json()
    assert (drawn["cache"], drawn["request"]["cache"], drawn["similar"]) == ("miss", "similar", None)
    assert any("could not be looked for" in warning for warning in drawn["warnings"])
    await api.work()
    # Its own result needs no search.
    hit = (await api.http.post("/v1/jobs", json=body)).json()
    assert hit["cache"] == "hit"
    assert not any("could not be looked for" in warning for warning in hit["warnings"])
    plain = (await api.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})).json()
    assert plain["cache"] == "hit", "both have one key"
