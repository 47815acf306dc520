"""Both clients search a running platform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from client import BadRequest, Hit, Image, NotFound
from client.search import name_of, similar_path
from tests.cli.web import png
from tests.client.conftest import Opener
from tests.client.test_client import scripted
from tests.integration.conftest import Stack
from tests.integration.searching import searching, until

PROMPTS = ("a red apple", "a rocket on a yellow background", "an umbrella on a pink background")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with searching(tmp_path_factory.mktemp("client-search"), PROMPTS) as running:
        yield running


@pytest.mark.slow
def test_what_was_drawn_is_found(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"])
    page = darkroom.search("a rocket", limit=2, model="emoji-turbo")
    first = page.data[0]
    assert (first.prompt, first.source, first.width) == (PROMPTS[1], "generated", 64)
    assert first.why["vector"].rank == 1
    assert page.model.startswith("emoji-clip@")
    picture = darkroom.image(first.url)
    assert darkroom.search(image=picture).data[0].name == first.name
    darkroom.search_clicked("a rocket", first)
    clicked = darkroom.search("a rocket").data[0]
    assert (clicked.name, clicked.why["clicks"].rank, clicked.reranked) == (first.name, 1, None)
    others = darkroom.similar(first).data
    assert len(others) == len(PROMPTS) - 1
    assert first.name not in {hit.name for hit in others}
    for like in (first, darkroom.job(first.job_id).images[0], first.url):
        assert [hit.name for hit in darkroom.search(like=like).data] == [hit.name for hit in others]
    assert darkroom.similar(first, limit=1).next_cursor
    assert darkroom.search(seed=first.seed + 1, model="none").data == ()
    with pytest.raises(BadRequest) as bad:
        darkroom.search("a", like=first)
    assert bad.value.param == "like"
    with pytest.raises(NotFound) as unknown:
        darkroom.similar("0" * 64 + ".png")
    assert unknown.value.code == "picture_not_indexed"


@pytest.mark.slow
def test_pages_hold_each_image_once(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"])
    pages = list(darkroom.search_pages(limit=1))
    assert [len(page.data) for page in pages[:3]] == [1, 1, 1]
    hits = [hit for page in pages for hit in page.data]
    assert [hit.prompt for hit in hits] == list(reversed(PROMPTS)), "the newest first"
    assert {hit.name for page in darkroom.search_pages("a red apple") for hit in page.data} <= {
        hit.name for hit in hits
    }


@pytest.mark.slow
def test_an_operator_rebuilds_the_index(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"])
    begun = darkroom.rebuild_search_index()
    assert begun.images == len(PROMPTS)
    until(
        lambda: (
            (last := darkroom.search_index().rebuild) and last.finished_at and last.records == len(PROMPTS)
        ),
        stack,
    )


PAGE = {
    "data": [
        {
            "name": "a.png",
            "url": "/v1/images/a.png",
            "score": 1,
            "why": {},
            "width": 1,
            "height": 1,
            "created_at": 1,
        }
    ],
    "next_cursor": None,
}


def test_a_search_is_tried_again(opened: Opener) -> None:
    busy = (503, {"Retry-After": "0"}, b'{"error": {"code": "search_unavailable", "message": "away"}}')
    with scripted(busy, None, (200, {}, json.dumps(PAGE).encode())) as (url, seen):
        (hit,) = opened(url).search("a").data
    assert (hit.name, hit.why, len(seen)) == ("a.png", {}, 3)


def test_pages_end_with_the_last_cursor(opened: Opener) -> None:
    answers = [{**PAGE, "next_cursor": "x"}, {**PAGE, "next_cursor": "y"}, PAGE]
    with scripted(*((200, {}, json.dumps(each).encode()) for each in answers)) as (url, seen):
        assert len(list(opened(url).search_pages("a"))) == 3
    assert len(seen) == 3


@pytest.mark.parametrize("url", ["a.png", "/v1/images/a.png", "https://host/v1/images/a.png?signed=1"])
def test_an_image_is_named_by_its_url(url: str) -> None:
    assert name_of(url) == "a.png"
    assert name_of(Image(url=url, width=1, height=1, seed=1, content_type="image/png")) == "a.png"
    assert name_of(Hit(name="a.png", url=url, score=1, why={}, width=1, height=1, created_at=1)) == "a.png"
    assert similar_path(url) == "/v1/images/a.png/similar"


def test_a_name_stays_within_its_path() -> None:
    assert similar_path("a b?c#d") == "/v1/images/a%20b/similar"


@pytest.mark.slow
def test_an_image_is_imported_found_and_removed(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"])
    data = png("orange")
    digest = hashlib.sha256(data).hexdigest()
    assert darkroom.imported_files([digest]) == {}
    imported = darkroom.import_image(data, caption="a pumpkin coloured card", origin="cards/1.png")
    assert imported.added
    assert not darkroom.import_image(data).added
    assert darkroom.imported_files([digest, "0" * 64]) == {digest: imported.name}
    until(lambda: darkroom.search(source="imported").data, stack)
    (hit,) = darkroom.search("pumpkin", source="imported").data
    assert (hit.name, hit.prompt, hit.origin) == (imported.name, "a pumpkin coloured card", "cards/1.png")
    assert (hit.source, hit.job_id, hit.seed) == ("imported", None, None)
    assert len(darkroom.similar(hit, limit=2).data) == 2
    darkroom.remove_image(hit)
    until(lambda: not darkroom.search(source="imported").data, stack)
    with pytest.raises(NotFound) as gone:
        darkroom.remove_image(imported.url)
    assert gone.value.code == "image_not_found"
    with pytest.raises(BadRequest) as bad:
        darkroom.import_image(b"no picture")
    assert (bad.value.param, (bad.value.details or {})["reason"]) == ("image", "format")
