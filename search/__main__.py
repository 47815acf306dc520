"""`python -m search`: keeps the index of images and answers searches, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from backends.http_server import HttpServer
from broker.topology import search_queue
from contracts import exit_codes
from contracts.errors import SettingsError, UnavailableError
from contracts.pictures import Owed
from contracts.ports.clock import Clock
from contracts.search import IndexState
from contracts.search_settings import SearchSettings
from duties.dispatch import Dispatcher
from duties.process import consume
from duties.queue import DutyQueue
from runtime.clock import SystemClock
from runtime.leaving import leave_at_sigterm
from runtime.listening import BACKLOG, listen
from runtime.tasks import end
from search import golden
from search.clip import ClipModel
from search.embedder import Embedder
from search.engines import index_of
from search.index import IndexBusy, IndexDamaged, IndexMismatch, VectorSetsMissing, VectorsMissing
from search.indexer import Indexer
from search.owed import OwedPictures, grouped
from search.query import Searcher
from search.rebuild import Rebuilder, index_name
from search.rerank import Reranker
from search.service import create_app
from search.similar import SimilarPrompts
from search.vector_cache import VectorCache
from store.layout import require_layout
from store.stores import Stores, open_stores
from telemetry import logs, metrics, series, tracing
from telemetry.server import OperationServer

REBUILD_S: Final = 1.0
"""Seconds between two looks at whether a rebuild is asked for."""
TIDY_S: Final = 5.0
"""Seconds between two looks at what must leave the index."""
MAX_CONNECTIONS: Final = 512
HEADER_TIMEOUT_S: Final = 300.0
"""The API keeps its connections open between searches."""
MAX_HEADER_BYTES: Final = 16_384
WRITE_TIMEOUT_S: Final = 30.0

REFUSALS: Final = (IndexMismatch, IndexDamaged, IndexBusy, VectorSetsMissing, VectorsMissing)
"""Why an index cannot be opened, with a message for the operator."""

log = logs.get_logger("search")


class Runtime:
    """An event loop on its own thread. Celery's threads pass their duties to it. Call `start`, then `stop`."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._stores: Stores = open_stores(settings)
        model = ClipModel(settings.clip)
        self._embedder = Embedder(model)
        self._similar: SimilarPrompts | None = None
        if settings.similar_floor is not None:
            golden.require(settings.similar_floor, golden.fitted(model.texts), model.name)
            self._similar = SimilarPrompts(
                self._stores.similar, self._embedder, self._clock, settings.similar_floor
            )
        self._index = index_of(settings)
        self._indexer = Indexer(
            self._stores.pictures, self._index, self._embedder, self._stores.blobs, self._clock
        )
        self._reranker = _reranker(settings, self._stores, self._clock)
        self._searcher = Searcher(
            self._index,
            self._embedder,
            self._stores.blobs,
            self._clock,
            self._reranker,
            self._stores.clicks,
        )
        self._rebuilder = Rebuilder(
            self._stores.pictures,
            self._index,
            self._indexer,
            self._stores.rebuilds,
            self._clock,
            index_name(settings.search_index, self._embedder.name),
        )
        self._listener = listen(settings.search_host, settings.search_port, "DARKROOM_SEARCH_PORT")
        self.queue = DutyQueue(settings, "search", search_queue(settings), Owed, self.run, late=True)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, fresh: bool = False) -> None:
        """Open the index (`fresh`: after forgetting all that it holds), then start the service, the dispatcher and the tidying. Raises one of
        `REFUSALS`, and `StoreUnavailable`."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(fresh=fresh), self._loop).result()

    def unready(self) -> str | None:
        """Why this process answers no searches now, or None. For a readiness probe; callable from any thread."""
        return (
            None if self._tasks and not any(task.done() for task in self._tasks) else "It starts, or it ends."
        )

    def fault(self) -> str | None:
        """Why this process should be restarted, or None. For a liveness probe; callable from any thread."""
        ended = [task.get_name() for task in self._tasks if task.done() and not task.cancelled()]
        return f"{ended[0]} has ended." if ended else None

    def run(self, owed: Owed) -> None:
        """Index the images of some jobs; callable from any thread.

        If a store or the index is unavailable, the duty falls due again.
        """
        try:
            asyncio.run_coroutine_threadsafe(self._indexer.add(owed.job_ids), self._loop).result()
        except UnavailableError as error:
            metrics.REPAIRED.labels("search").inc()
            log.warning("indexing_put_off", job_id=owed.job_id, more=len(owed.more), code=error.code)

    def stop(self) -> None:
        """End the tasks, close the index, the stores and the connections, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._embedder.close()

    async def _start(self, *, fresh: bool) -> None:
        await self._index.open(self._embedder.name, self._embedder.dimensions, fresh=fresh)
        app = create_app(
            self._searcher,
            self._embedder,
            self._state,
            self._rebuilder.ask,
            self._settings.search_token,
            self._similar,
        )
        server = HttpServer(
            app,
            self._listener,
            BACKLOG,
            max_connections=MAX_CONNECTIONS,
            header_timeout_s=HEADER_TIMEOUT_S,
            max_header_bytes=MAX_HEADER_BYTES,
            write_timeout_s=WRITE_TIMEOUT_S,
        )
        dispatcher = Dispatcher(
            OwedPictures(self._stores.pictures), self._enqueue, "search_dispatch", metrics.SEARCH_OWED
        )
        for name, work in (
            ("service", server.serve()),
            ("dispatcher", dispatcher.run()),
            ("tidying", self._tidy()),
            ("rebuilding", self._rebuild()),
        ):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(_ended)
            self._tasks.append(task)

    async def _enqueue(self, duties: Sequence[Owed]) -> None:
        await self.queue.put(grouped(duties))

    async def _state(self) -> IndexState:
        stats = await self._index.stats()
        return IndexState(
            clip=self._embedder.name,
            pictures=stats.pictures,
            bytes_on_disk=stats.disk_bytes,
            bytes_in_memory=stats.memory_bytes,
            owed=await self._stores.pictures.owed(),
            rebuild=self._rebuilder.progress,
        )

    async def _rebuild(self) -> None:
        """Run the rebuild that is due, and then every one that is asked for, for ever."""
        begun = False
        while True:
            try:
                if not begun:  # here, and not at the start: the store may be away
                    await self._rebuilder.begin()
                    begun = True
                await self._rebuilder.work()
            except UnavailableError as error:
                metrics.REPAIRED.labels("search_rebuild").inc()
                log.warning("rebuild_put_off", code=error.code)
            await asyncio.sleep(REBUILD_S)

    async def _tidy(self) -> None:
        """Take out what has expired and what was deleted elsewhere, for ever."""
        while True:
            try:
                await self._indexer.forget()
                await self._indexer.expire()
                metrics.SEARCH_IMAGES.set((await self._index.stats()).pictures)
            except UnavailableError as error:
                metrics.REPAIRED.labels("search_tidy").inc()
                log.warning("tidying_put_off", code=error.code)
            await asyncio.sleep(TIDY_S)

    async def _stop(self) -> None:
        await end(*self._tasks)
        if self._reranker is not None:
            await self._reranker.close()
        await self._index.close()
        await self._stores.close()


def _reranker(settings: SearchSettings, stores: Stores, clock: Clock) -> Reranker | None:
    """The second model of the settings; None: they name none. Raises `SettingsError`."""
    if not settings.rerank_clip:
        return None
    model = ClipModel(settings.rerank_clip, variable="DARKROOM_RERANK_CLIP")
    path = Path(settings.rerank_cache) if settings.rerank_cache else None
    vectors = VectorCache(path, model.name, settings.rerank_vectors, clock.now)
    return Reranker(Embedder(model, "rerank_"), vectors, stores.blobs, settings.rerank_budget_s)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.error("task_ended", task=task.get_name(), error=type(task.exception()).__name__)


def main() -> int:
    """Run the process; returns its exit status (`contracts.exit_codes`)."""
    leave_at_sigterm()
    parser = argparse.ArgumentParser(prog="python -m search", description=__doc__)
    parser.add_argument(
        "--rebuild", action="store_true", help="forget the index first, and fill it from the records"
    )
    fresh = parser.parse_args().rebuild
    try:
        settings = SearchSettings.from_env()
        asyncio.run(require_layout(settings))
        logs.configure(settings, service="search")
        tracing.configure(settings, "search")
        metrics.BUILD.labels("search", version("darkroom")).set(1)
        series.begin_search()
        runtime = Runtime(settings)
        if settings.metrics_port:
            OperationServer(settings.metrics_port, runtime.fault, runtime.unready).start()
        runtime.start(fresh=fresh)
    except (SettingsError, *REFUSALS) as error:
        sys.stderr.write(f"darkroom search: {error}\n")
        return exit_codes.UNUSABLE
    except UnavailableError as error:
        sys.stderr.write(f"darkroom search: {error}\n")
        return exit_codes.FAILED
    log.info("search_ready")
    return consume(runtime, "search", settings.search_concurrency, settings.log_level)


if __name__ == "__main__":
    sys.exit(main())
