"""An index of many pictures of clustered vectors: recall, what the port costs over the library's own call, memory, rates."""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from cli.services.redis import RedisServer
from contracts.pictures import Embedding, PictureRecord
from contracts.search_settings import SearchSettings
from search.embedded_graph import EXPANSION_SEARCH
from search.engines import index_of
from search.fusion import fuse
from search.index import PictureIndex, VectorSetsMissing
from search.where import Where

CLIP: Final = "benchmark@1"
DIMENSIONS: Final = 96
CENTRES: Final = 2_000
SPREAD: Final = 0.55
"""The standard deviation around a centre, of a vector of length 1 in all: cosines within a centre are about 0.77."""
NOW: Final = 1_800_000_000.0
SCOPE: Final = "tenant:benchmark"
BATCH: Final = 2_000
TEN, HUNDRED = 10, 100
COLOURS: Final = ("red", "blue", "green", "yellow", "black", "white", "pink", "brown")
STYLES: Final = ("drawing", "photo", "sticker", "icon", "painting")
ALIVE: Final = Where(alive_at=NOW)
FILTERS: Final = {
    "half": Where(alive_at=NOW, lora="pixel"),
    "hundredth": Where(alive_at=NOW, model="rare"),
}
ENGINES: Final = ("embedded", "redis", "postgres")

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]


def clustered(rng: np.random.Generator, centres: Floats, size: int) -> Halves:
    """Vectors of length 1 around the centres, float16 of shape `(size, DIMENSIONS)`."""
    near = centres[rng.integers(0, len(centres), size)]
    found: Floats = near + rng.normal(scale=SPREAD / np.sqrt(DIMENSIONS), size=near.shape).astype(np.float32)
    unit: Halves = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)
    return unit


def centres_of(rng: np.random.Generator) -> Floats:
    found = rng.normal(size=(CENTRES, DIMENSIONS)).astype(np.float32)
    unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def record(number: int, vector: Halves) -> PictureRecord:
    words = (
        COLOURS[number % 8],
        f"thing{number % 331}",
        STYLES[number % 5],
        *(["with", "hat"] if number % 7 == 0 else []),
    )
    return PictureRecord(
        scope=SCOPE,
        name=f"{number:064x}.png",
        embedding=Embedding.of(CLIP, vector.astype("<f2").tobytes()),
        created_at=NOW - 1e6 + number,
        # One in fifty has expired and is not yet deleted.
        expires_at=NOW - 1.0 if number % 50 == 0 else NOW + 1e6,
        prompt=f"a {' '.join(words)}",
        model="rare" if number % 100 == 1 else "emoji-turbo",
        lora="pixel" if number % 2 else "",
        width=512,
        height=512,
        seed=number,
        job_id=f"job_{number:027}",
    )


def number_of(name: str) -> int:
    return int(name.partition(".")[0], 16)


def exact(vectors: Halves, queries: Halves, wanted: int, allowed: npt.NDArray[np.bool_]) -> list[set[int]]:
    """The numbers of the nearest vectors of each query, by comparing all."""
    best = [np.zeros((0, 2)) for _ in queries]
    asked = queries.astype(np.float32)
    for at in range(0, len(vectors), 50_000):
        similar = asked @ vectors[at : at + 50_000].astype(np.float32).T
        similar[:, ~allowed[at : at + 50_000]] = -2.0
        for row, found in enumerate(similar):
            top = np.argpartition(found, -wanted)[-wanted:]
            merged = np.concatenate([best[row], np.stack([found[top], at + top], axis=1)])
            best[row] = merged[np.argsort(-merged[:, 0])[:wanted]]
    return [set(each[:, 1].astype(int).tolist()) for each in best]


async def timed(call: Awaitable[Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1000


def p(samples: list[float], share: float) -> float:
    return float(np.quantile(samples, share))


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def batches(vectors: Halves) -> Iterator[list[PictureRecord]]:
    for at in range(0, len(vectors), BATCH):
        yield [record(at + i, vector) for i, vector in enumerate(vectors[at : at + BATCH])]


async def filled(index: PictureIndex, vectors: Halves) -> float:
    """Puts all pictures. Returns the seconds that the index took for it."""
    seconds = 0.0
    for batch in batches(vectors):
        began = time.perf_counter()
        refused = await index.put(batch)
        seconds += time.perf_counter() - began
        assert list(refused) == []
    return seconds


async def recall(index: PictureIndex, queries: Halves, truth: list[set[int]], where: Where) -> float:
    shares = []
    for query, right in zip(queries, truth, strict=True):
        found = await index.nearest([SCOPE], query.tobytes(), TEN, where)
        shares.append(len({number_of(each.name) for each in found} & right) / len(right))
    return statistics.fmean(shares)


def graph_of(folder: Path | None) -> Path | None:
    """The file of the embedded index's graph; None: it has none, being small."""
    return next(folder.glob("vectors-*.usearch"), None) if folder is not None else None


def beside_library(file: Path) -> Callable[[Floats, int], Any]:
    """usearch's own search on a copy of the graph."""
    from usearch.index import Index

    library = Index.restore(str(file), expansion_search=EXPANSION_SEARCH)
    assert library is not None

    def search(query: Floats, wanted: int) -> Any:
        return library.search(query, wanted, threads=1)

    return search


async def against_library(
    index: PictureIndex, file: Path, queries: Halves, wanted: int
) -> dict[str, list[float]]:
    """Milliseconds of the port, of the library, and of the port again, in turns."""
    library = beside_library(file)
    found: dict[str, list[float]] = {
        "port": [],
        "library": [],
        "port again": [],
        "cpu of port": [],
        "cpu of library": [],
    }
    for query in queries:
        raw, plain = query.tobytes(), query.astype(np.float32)
        for name in ("port", "library", "port again"):
            began, cpu = time.perf_counter(), time.process_time()
            if name == "library":
                library(plain, wanted)
            else:
                await index.nearest([SCOPE], raw, wanted, ALIVE)
            found[name].append((time.perf_counter() - began) * 1000)
            if name != "port again":
                found[f"cpu of {name}"].append((time.process_time() - cpu) * 1000)
    return found


async def measure(
    engine: str,
    index: PictureIndex,
    size: int,
    queries: Halves,
    vectors: Halves,
    folder: Path | None,
    samples: dict[str, Any],
) -> dict[str, float]:
    numbers = np.arange(size)
    alive = numbers % 50 != 0
    truth = exact(vectors, queries, TEN, alive)
    before = resident()
    await index.open(CLIP, DIMENSIONS, fresh=True)
    figures: dict[str, float] = {}
    figures["build_rate"] = size / await filled(index, vectors)
    await index.flush()
    figures["resident_bytes_a_vector"] = (resident() - before) / size if engine == "embedded" else 0.0
    told = await index.stats()
    figures["memory_bytes_a_vector"] = told.memory_bytes / size
    figures["disk_bytes_a_vector"] = told.disk_bytes / size
    if engine == "embedded":
        await index.close()
        figures["reopen_s"] = await timed(index.open(CLIP, DIMENSIONS)) / 1000
    figures["recall_10"] = await recall(index, queries, truth, ALIVE)
    for name, where in FILTERS.items():
        passing = alive & (numbers % 2 == 1 if name == "half" else numbers % 100 == 1)
        some = queries[: len(queries) // 4]
        figures[f"recall_10_{name}"] = await recall(index, some, exact(vectors, some, TEN, passing), where)
        times = [await timed(index.nearest([SCOPE], q.tobytes(), HUNDRED, where)) for q in some]
        figures[f"nearest_{name}_ms_p50"] = p(times, 0.5)
    for wanted in (TEN, HUNDRED):
        times = [await timed(index.nearest([SCOPE], q.tobytes(), wanted, ALIVE)) for q in queries]
        figures |= {f"nearest_{wanted}_ms_p50": p(times, 0.5), f"nearest_{wanted}_ms_p99": p(times, 0.99)}
        if (file := graph_of(folder)) is not None:
            pairs = await against_library(index, file, queries, wanted)
            samples[f"{engine} {size} {wanted}"] = {
                key: [round(v, 4) for v in each] for key, each in pairs.items()
            }
            figures[f"port_over_library_{wanted}_cpu"] = sum(pairs["cpu of port"]) / sum(
                pairs["cpu of library"]
            )
            for share, name in ((0.5, "p50"), (0.99, "p99")):
                port = p(pairs["port"], share)
                figures[f"port_over_library_{wanted}_{name}"] = port / p(pairs["library"], share)
                figures[f"port_again_{wanted}_{name}"] = p(pairs["port again"], share) / port
    texts = [f"a {COLOURS[n % 8]} thing{n % 331} {STYLES[n % 3]}" for n in range(0, 3880, 97)]
    times = [await timed(index.by_words([SCOPE], t, HUNDRED, ALIVE)) for t in texts]
    figures |= {"words_ms_p50": p(times, 0.5), "words_ms_p99": p(times, 0.99)}
    names = [f"{number:064x}.png" for number in range(0, size, max(1, size // 5_000))]
    began = time.perf_counter()
    for at in range(0, len(names), HUNDRED):
        await index.delete(SCOPE, names[at : at + HUNDRED])
    figures["delete_rate"] = len(names) / (time.perf_counter() - began)
    gone = np.zeros(size, np.bool_)
    gone[:: max(1, size // 5_000)] = True
    some = queries[: len(queries) // 4]
    figures["recall_10_after_deletes"] = await recall(
        index, some, exact(vectors, some, TEN, alive & ~gone), ALIVE
    )
    await index.close()
    return {f"{name}_{engine}_{size}": value for name, value in figures.items() if value}


async def fusion_us(index: PictureIndex, queries: Halves) -> float:
    """Microseconds to fuse a hundred of each list."""
    await index.open(CLIP, DIMENSIONS)
    near = await index.nearest([SCOPE], queries[0].tobytes(), HUNDRED, ALIVE)
    worded = await index.by_words([SCOPE], "a red thing1", HUNDRED, ALIVE)
    await index.close()
    times = []
    for _ in range(200):
        began = time.perf_counter()
        fuse(near, worded, [SCOPE])
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


async def run(
    args: argparse.Namespace, sizes: list[int], asked: int, samples: dict[str, Any]
) -> dict[str, float]:
    rng = np.random.default_rng(7)
    centres = centres_of(rng)
    vectors, queries = clustered(rng, centres, max(sizes)), clustered(rng, centres, asked)
    figures: dict[str, float] = {}
    for size in sizes:
        for engine in args.engines:
            with tempfile.TemporaryDirectory(prefix="search-index-", dir=args.folder) as name:
                folder, server = Path(name), None
                setting = f"embedded:{folder / 'index'}"
                if engine == "redis":
                    server = RedisServer(folder, options=("--appendonly", "no"))
                    server.start()
                    setting = server.url
                elif engine == "postgres":
                    setting = args.postgres
                index = index_of(
                    SearchSettings(
                        search_index=setting, search_timeout_s=600.0, search_exact_below=args.exact_below
                    )
                )
                try:
                    held = folder / "index" if engine == "embedded" else None
                    figures |= await measure(engine, index, size, queries, vectors[:size], held, samples)
                    if engine == "embedded":
                        figures["fuse_us"] = await fusion_us(index, queries)
                except VectorSetsMissing as error:
                    print(f"{engine}: not measured. {error}")
                finally:
                    await index.close()
                    if server is not None:
                        server.stop()
    return figures
