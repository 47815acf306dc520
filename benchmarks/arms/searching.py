"""Platforms with a search and without: how they are started and asked."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np

from benchmarks.arms.gallery import Gallery
from benchmarks.arms.search_figures import ARMS, TEN, names_of, precision_10
from benchmarks.lib.asking import connect, draw
from benchmarks.lib.cores import isolate
from benchmarks.lib.platform import QUIET, Platform
from benchmarks.lib.saturate import draw_rate
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from models.recipe import captions, data

FOUND_WITHIN_S: Final = 60.0
PAUSE_S: Final = 0.005
"""Between two looks at whether a picture is found."""


@contextmanager
def deployed(folder: Path, arm: str, broker: RabbitServer, given: Mapping[str, str]) -> Iterator[Platform]:
    """A platform with one worker: `with` embeds and searches, `without` has no CLIP."""
    port = process.free_port()
    finding = {"DARKROOM_SEARCH_PORT": str(port), "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}"}
    environ = {
        **QUIET,
        "DARKROOM_MODEL_NAME": f"emoji-turbo-{arm}",
        "DARKROOM_CLIP": "",
        **(finding if arm == "with" else {}),
        **given,
    }
    with Platform.open(environ, folder / arm, broker=broker) as platform:
        if arm == "with":
            platform.start("search", "search")
        yield platform


def ask(connection: http.client.HTTPConnection, **query: Any) -> tuple[float, list[dict[str, Any]]]:
    """Milliseconds until the answer was in the client's hands, and its hits."""
    path = f"/v1/search?{urlencode(query)}"
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    took_ms = (time.perf_counter() - begun) * 1000
    if answer.status != 200:
        raise RuntimeError(body.decode())
    hits: list[dict[str, Any]] = json.loads(body)["data"]
    return took_ms, hits


def wait_for_search(platform: Platform) -> None:
    """Until the search process answers. Raises `RuntimeError`."""
    connection, until = connect(platform.url), time.monotonic() + FOUND_WITHIN_S
    while True:
        try:
            ask(connection, q="a warm-up", limit=TEN)
            return
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def fused(platform: Platform, gallery: Gallery, names: Sequence[str]) -> float:
    """`concept_p10` of what GET /v1/search answers."""
    row_of = {name: row for row, name in enumerate(names)}
    connection, queries = connect(platform.url), names_of(gallery.emoji)
    hits = [ask(connection, q=text, limit=TEN)[1] for text, _ in queries]
    connection.close()
    rows = np.array([[row_of[hit["name"]] for hit in each] for each in hits])
    return precision_10(rows, gallery.judged, queries)


def cpu_s(platform: Platform, names: Sequence[str]) -> float:
    """The CPU time of these processes so far."""
    return sum(sum(platform.process(name).cpu_times()[:2]) for name in names)


def request_times(platform: Platform, texts: Sequence[str]) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each request, with texts that are new, and then with the same again; and CPU milliseconds of one that is new."""
    connection = connect(platform.url)
    before = cpu_s(platform, ("api", "search"))
    fresh = [ask(connection, q=text, limit=TEN)[0] for text in texts]
    cpu_ms = (cpu_s(platform, ("api", "search")) - before) * 1000 / len(texts)
    again = [ask(connection, q=text, limit=TEN)[0] for text in texts]
    connection.close()
    return {"fresh": fresh, "again": again}, cpu_ms


def found_after(platform: Platform, emoji: data.EmojiSet, count: int) -> list[float]:
    """Seconds from the end of each of `count` jobs until its picture is found. Raises `RuntimeError` if one is not."""
    drawing, asking = connect(platform.url), connect(platform.url)
    samples = []
    for number in range(count):
        text, seed = captions.write(emoji.concepts[number % len(emoji.concepts)].name), 1_000_000 + number
        _, job = draw(drawing, {"prompt": text, "seed": seed})
        while not ask(asking, q=text, seed=seed, limit=1)[1]:
            if time.time() > job["finished_at"] + FOUND_WITHIN_S:
                raise RuntimeError(f"The picture of {job['id']} is not found.")
            time.sleep(PAUSE_S)
        samples.append(time.time() - job["finished_at"])
    drawing.close()
    asking.close()
    return samples


def draw_rates(running: Mapping[str, Platform], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of every arm, round by round. Six rounds take every order once."""
    isolate([platform.engine() for platform in running.values()])
    for platform in running.values():
        draw_rate(platform.url, seconds / 2)
    samples: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for order in itertools.islice(itertools.cycle(itertools.permutations(ARMS)), rounds):
        for arm in order:
            samples[arm].append(draw_rate(running[arm.partition("_")[0]].url, seconds)[0])
    return samples
