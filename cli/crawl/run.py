"""From a source to the server: every picture once, whatever happens to single ones.

The server knows the files that it has by their hashes. A run that was killed is simply started again: what
the server has is not sent again. What was read from far away is noted in a journal, and is not fetched
again either.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from cli.crawl.captions import tidy
from cli.crawl.items import Item, Loaded, Reason, Skipped, Source, Summary, looks_like_picture
from cli.crawl.journal import Journal
from client import AsyncClient
from client.errors import BadRequest, ClientError, ConnectionFailed, Throttled, Unavailable
from contracts.pictures import MAX_ORIGIN_CHARS

T = TypeVar("T")

WORKERS: Final = 8
"""Pictures that are fetched and sent at once."""
ASKED: Final = 100
"""Hashes of one question to the server."""
TRIES: Final = 8
"""How often the server is called that does not answer, or has no room now."""
MAX_PAUSE_S: Final = 30.0
RATE: Final = "requests_per_minute"
"""The one limit of an API key that is waited for."""
REASONS: Final = {
    "format": Reason.FORMAT,
    "bytes": Reason.BYTES,
    "pixels": Reason.PIXELS,
    "damaged": Reason.DAMAGED,
    "memory": Reason.HEAVY,
    "time": Reason.HEAVY,
}
"""Why the server refuses an image, by its `details.reason`."""

Report = Callable[[Summary, int], None]
"""Is told the summary so far, and how many items there are in all."""


class Crawl:
    """One run. `run` it once; `summary` is up to date all the time."""

    def __init__(self, source: Source, client: AsyncClient, journal: Journal | None, report: Report) -> None:
        self._source = source
        self._client = client
        self._journal = journal
        self._report = report
        self._total = 0
        self._seen: set[str] = set()
        self._answered = False
        """Whether the server has answered anything."""
        self.summary = Summary()

    async def run(self) -> Summary:
        """Bring all pictures of the source to the server.

        Raises `SourceFailed` if nothing can be read, and `ClientError` if the server is away, or takes no more.
        """
        listing = await self._source.list()
        self._total = len(listing.items) + len(listing.skipped)
        self._seen = {item.key for item in listing.items}
        for name, skipped in listing.skipped:
            self.summary.leave_out(name, skipped)
        self._report(self.summary, self._total)
        queue = asyncio.Queue[Item | None](2 * WORKERS)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work(queue))
                async for item in self._unsent(listing.items):
                    await queue.put(item)
                for _ in range(WORKERS):
                    await queue.put(None)
        except ExceptionGroup as errors:
            ours, others = errors.split(ClientError)
            if ours is None or others is not None:
                raise
            raise _first(ours) from None
        return self.summary

    async def _unsent(self, items: Sequence[Item]) -> AsyncIterator[Item]:
        """The items that the server is not known to have. Counts the others."""
        for group in _groups(items):
            digests = await self._digests(group)
            known = await self._known(sorted(set(digests.values())))
            for item in group:
                if digests.get(item.key) in known:
                    self._count(known=True)
                else:
                    yield item

    async def _digests(self, items: Sequence[Item]) -> dict[str, str]:
        """The hashes of the files, by key, as far as they are known without fetching one."""
        if not self._source.local:
            journal = {} if self._journal is None else self._journal.known
            return {item.key: journal[item.key] for item in items if item.key in journal}
        found = {}
        for item in items:
            try:
                found[item.key] = _hash((await self._source.load(item)).data)
            except Skipped:
                continue  # the worker that comes to it says why
        return found

    async def _known(self, digests: Sequence[str]) -> set[str]:
        if not digests:
            return set()
        return set(await self._patiently(lambda: self._client.imported_files(digests)))

    async def _work(self, queue: asyncio.Queue[Item | None]) -> None:
        while (item := await queue.get()) is not None:
            await self._bring(item)

    async def _bring(self, item: Item) -> None:
        """Bring one picture to the server, or all pictures of a page."""
        try:
            loaded = await self._source.load(item)
            if loaded.items is None:
                await self._send(item, loaded)
                return
        except Skipped as skipped:
            self.summary.leave_out(item.origin, skipped)
            self._report(self.summary, self._total)
            return
        fresh = [each for each in loaded.items if each.key not in self._seen]
        self._seen |= {each.key for each in fresh}
        self._total += len(fresh) - 1  # the page itself is none
        async for each in self._unsent(fresh):
            await self._bring_picture(each)
        self._report(self.summary, self._total)

    async def _bring_picture(self, item: Item) -> None:
        try:
            loaded = await self._source.load(item)
            if loaded.items is not None:
                raise Skipped(Reason.FORMAT)
            await self._send(item, loaded)
        except Skipped as skipped:
            self.summary.leave_out(item.origin, skipped)
            self._report(self.summary, self._total)

    async def _send(self, item: Item, loaded: Loaded) -> None:
        if not looks_like_picture(loaded.data):
            raise Skipped(Reason.FORMAT)
        caption, cut = tidy(loaded.caption or item.caption)
        origin = tidy(item.origin)[0][:MAX_ORIGIN_CHARS]
        try:
            imported = await self._patiently(
                lambda: self._client.import_image(loaded.data, caption=caption, origin=origin)
            )
        except BadRequest as error:
            raise _skipped(error) from None
        if self._journal is not None:
            self._journal.note(item.key, _hash(loaded.data))
        if (note := loaded.note or cut) is not None:
            self.summary.note(item.origin, note)
        self._count(known=not imported.added)

    def _count(self, *, known: bool) -> None:
        if known:
            self.summary.known += 1
        else:
            self.summary.added += 1
        self._report(self.summary, self._total)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call, which is repeated while the server is away, busy, or asks to come slower.

        A server that has never answered is not waited for: its address may be wrong.
        """
        tried = 0
        while True:
            try:
                answer = await call()
                self._answered = True
                return answer
            except Throttled as error:
                if (error.details or {}).get("limit") != RATE:
                    raise
                pause_s = error.retry_after_s or 1.0
            except (Unavailable, ConnectionFailed) as error:
                tried += 1
                if tried >= TRIES or (isinstance(error, ConnectionFailed) and not self._answered):
                    raise
                pause_s = getattr(error, "retry_after_s", None) or 0.5 * 2**tried
            await asyncio.sleep(min(pause_s, MAX_PAUSE_S))


def _skipped(error: BadRequest) -> Skipped:
    """Why the server refuses a picture."""
    if error.status == 413:
        return Skipped(Reason.BYTES)
    reason = REASONS.get(str((error.details or {}).get("reason")))
    return Skipped(Reason.REFUSED, str(error)) if reason is None else Skipped(reason)


def _first(errors: ExceptionGroup[ClientError]) -> Exception:
    """The first error of a group. The others have the same cause."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _groups(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[begin : begin + ASKED] for begin in range(0, len(items), ASKED))
