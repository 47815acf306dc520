"""Server-sent events of a job (https://html.spec.whatwg.org/multipage/server-sent-events.html),
derived from its record.

The store counts the changes of a record in its `sequence`. The id of an event is the sequence of
the record that it was read from. No log of events is kept or needed, because each change replaces
the one before: a later step an earlier one, a status the last one. A client that comes back with
the `Last-Event-ID` n, while the sequence is m > n, gets all that the record says now. It then knows
as much as a client that never left.

One change may make several events (images, then the end). Only the last of them carries the id. A
client that leaves between them gets all of them again. No change is lost between a reading and the
next: the subscription to changes begins before the record is read, and the record is read again
after every change.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.catalogue import Catalogue
from api.keyring import Principal
from api.long_poll import disconnected
from api.read_limits import BUSY_S, Shares, too_many
from api.schemas import ModeratedEvent, OutputEvent, StatusEvent
from api.watch import SharedReadings
from contracts.errors import DarkroomError, TooManyStreams
from contracts.jobs import Job, JobStatus, Preview
from contracts.settings import ApiSettings
from runtime.tasks import end
from store.stores import Stores
from telemetry import metrics
from views.job import JobView, Wire, image_url

RETRY_MS: Final = 2000
"""The least time after which a client that lost its stream comes back, in milliseconds."""
SEND_S: Final = 30.0
"""A client that accepts no data for this many seconds is taken to have left."""
BEAT: Final = ": still here\n\n"
"""A heartbeat: a comment, which clients ignore."""

HEADERS: Final = {
    # A cache or a compressing proxy would delay the stream.
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",  # for nginx and similar proxies
}
"""Headers of every stream."""

Put = Callable[[str], Awaitable[None]]
"""Sends a piece of the stream to the client, and returns when the next may be sent."""
Writer = Callable[[Put], Awaitable[None]]
"""Writes a whole stream."""
Left = Callable[[], Awaitable[None]]
"""Called when the client has left, or was refused."""


class PreviewEvent(Wire):
    """Event `preview`: the first image of a running job, as it is so far."""

    index: int
    url: str

    @classmethod
    def of(cls, preview: Preview) -> PreviewEvent:
        """The event for `preview`."""
        return cls(index=preview.index, url=image_url(preview.name))


class Streams:
    """All open streams of this process.

    Their number is bounded, in all and for each holder (`Principal.holder`). Beyond the limit a
    stream is refused; polling still works.
    """

    def __init__(self, stores: Stores, catalogue: Catalogue, settings: ApiSettings) -> None:
        self.readings = SharedReadings(stores, catalogue, settings.event_heartbeat_s)
        self._shares = Shares("event_streams", settings.max_event_streams, settings.max_event_streams_per_key)
        self._heartbeat_s = settings.event_heartbeat_s
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream. Clients connect to another process, and resume there."""
        self._closing.set()

    def of(
        self,
        caller: Principal,
        job: Job,
        last_event_id: str | None,
        *,
        until_reviewed: bool = False,
        headless: bool = False,
    ) -> Response:
        """The stream of `job`, which was just read, for `caller`.

        With `until_reviewed` it goes on after the end, until no image waits for a person. `headless`: a
        HEAD request, which gets only the headers.
        """
        last = _sequence(last_event_id)
        if last == job.sequence and _over(job, until_reviewed=until_reviewed):
            # 204 is how a server tells a browser's EventSource not to come back.
            return Response(None, 204)
        if headless:
            return Response(None, 200, HEADERS, media_type="text/event-stream")
        write = partial(self._follow, job.tenant, job.id, last, until_reviewed)
        return self.open(write, caller.holder)

    def open(self, write: Writer, holder: str, left: Left | None = None) -> Response:
        """A stream with the body that `write` puts, piece by piece.

        Sending it raises `TooManyStreams` if there are too many, and `QuotaExceeded` if `holder`
        has too many. `left` is called if the client leaves before the end, or if the stream could
        not be opened.
        """
        return _EventStream(partial(self._serve, holder=holder, left=left), write)

    async def _follow(
        self, tenant: str, job_id: str, last: int | None, until_reviewed: bool, put: Put
    ) -> None:
        """Put all events of a job. An unavailable store ends the stream; the client comes back."""
        # With jitter: clients that were cut off together come back at different times.
        await put(f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n")
        before: JobView | None = None
        sequence = last
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        async with aclosing(self.readings.follow(tenant, job_id, until_reviewed=until_reviewed)) as readings:
            async for job, view, previews in readings:
                # Previews have no id, as places in the queue. A client that was away misses them,
                # but nothing of the result.
                shown = previews if before is not None else ()
                text = "".join(_event("preview", PreviewEvent.of(preview)) for preview in shown)
                text += tell(view, job.sequence, before, sequence)
                before, sequence = view, job.sequence
                if not text and loop.time() - silent_since >= self._heartbeat_s:
                    text = BEAT
                if text:
                    await put(text)
                    silent_since = loop.time()

    async def _serve(
        self, write: Writer, start: Message, receive: Receive, send: Send, *, holder: str, left: Left | None
    ) -> None:
        """Send one stream, until all is written, the client has left, or the process ends."""
        refusal: DarkroomError | None = None
        if self._shares.full or self._closing.is_set():
            message = "No more event streams can be opened; poll the job meanwhile."
            refusal = TooManyStreams(message, retry_after_s=BUSY_S)
        elif not self._shares.allows(holder):
            message = "You have too many event streams open; close one, or poll the job meanwhile."
            refusal = too_many("event_streams", message)
        if refusal is not None:
            if left is not None:
                await left()
            raise refusal

        async def put(text: str) -> None:
            async with asyncio.timeout(SEND_S):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        async def body() -> None:
            await send(start)
            await write(put)

        with self._shares.one(holder), metrics.EVENT_STREAMS.track_inprogress():
            tasks = [
                asyncio.create_task(body()),
                asyncio.create_task(disconnected(receive)),
                asyncio.create_task(self._closing.wait()),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                outcomes = await end(*tasks)
        # The stream was cut off, or could not be sent: the client has not read the rest.
        unread = isinstance(outcomes[0], (asyncio.CancelledError, OSError))
        if unread and left is not None:
            await left()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, (DarkroomError, OSError)):
                raise outcome


class _EventStream(Response):
    def __init__(
        self, serve: Callable[[Writer, Message, Receive, Send], Awaitable[None]], write: Writer
    ) -> None:
        super().__init__(None, 200, HEADERS, media_type="text/event-stream")
        # The length of a stream is not known.
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        self._serve, self._write = serve, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await self._serve(self._write, start, receive, send)
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def tell(view: JobView, sequence: int, before: JobView | None, last: int | None) -> str:
    """The events that bring a client from the sequence `last` up to `sequence`; empty: nothing is
    new. Pure.

    `before` is the reading before for this stream; None: this is the first. A snapshot is sent if
    `last` is None, or if the record has never reached it (the record was lost and built again).
    """
    if before is None and (last is None or last > sequence):
        if view.status.terminal:
            # A client that listens only for the end gets it too, and the id with it.
            return _event("snapshot", view) + _changes(view, sequence, status=True, progress=False)
        return _event("snapshot", view, sequence)
    if sequence == last:
        moved = before is not None and (view.queue_position, view.eta_seconds) != (
            before.queue_position,
            before.eta_seconds,
        )
        # A place in the queue is no change of the record. Its event has no id.
        return _event("status", _status(view)) if moved and view.status is JobStatus.QUEUED else ""
    if before is not None and before.status.terminal:
        return _event("moderated", ModeratedEvent(id=view.id, images=view.images), sequence)
    # A job whose worker died goes back to `queued`, or starts again with no step done.
    status = before is None or view.status is not before.status or view.progress is None
    progress = view.progress is not None and (before is None or view.progress != before.progress)
    return _changes(view, sequence, status=status, progress=progress and not view.status.terminal)


def _over(job: Job, *, until_reviewed: bool) -> bool:
    return job.status.terminal and not (until_reviewed and job.in_review)


def _changes(view: JobView, sequence: int, *, status: bool, progress: bool) -> str:
    events: list[tuple[str, BaseModel]] = []
    if view.status is JobStatus.SUCCEEDED:
        output = OutputEvent(
            id=view.id, cache=view.cache, images=view.images, timings=view.timings, warnings=view.warnings
        )
        events.append(("output", output))
    if status or view.status.terminal:
        events.append(("status", _status(view)))
    if progress and view.progress is not None:
        events.append(("progress", view.progress))
    return "".join(
        _event(name, data, sequence if place == len(events) else None)
        for place, (name, data) in enumerate(events, start=1)
    )


def _status(view: JobView) -> StatusEvent:
    return StatusEvent(
        id=view.id,
        status=view.status,
        queue_position=view.queue_position,
        eta_seconds=view.eta_seconds,
        started_at=view.started_at,
        finished_at=view.finished_at,
        error=view.error,
    )


def _event(name: str, data: BaseModel, sequence: int | None = None) -> str:
    # The JSON is one line: pydantic escapes line ends, which would end the event.
    return sse(name, data.model_dump_json(), sequence)


def sse(name: str, data: str, id_: int | None = None) -> str:
    """One server-sent event. `data` must be a single line."""
    number = "" if id_ is None else f"id: {id_}\n"
    return f"event: {name}\n{number}data: {data}\n\n"


def _sequence(last_event_id: str | None) -> int | None:
    """The sequence in a `Last-Event-ID`; None: the header is absent or not ours."""
    text = (last_event_id or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
