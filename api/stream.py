"""Server-sent events of a job (https://html.spec.whatwg.org/multipage/server-sent-events.html), derived from its record.

The store counts the changes of a record in its `sequence`, and the id of an event is the sequence of the record that it
was read from. No log of events is kept, and none is needed: each change replaces what it supersedes (a later step an
earlier one, a status the one before), so whoever comes back with the `Last-Event-ID` n and finds the sequence m > n is
told all that the record now says, and then knows what one who never left knows. Where one change makes several events
(pictures, then the end) only the last of them carries the id: a client that leaves between them is told all of them
again. Nothing is lost between the reading of the record and what follows, for the subscription to changes is in force
before the record is read, and the record is read again after every change.
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
from api.schemas import OutputEvent, StatusEvent
from api.watch import SharedReadings
from contracts.errors import DarkroomError, TooManyStreams
from contracts.jobs import Job, JobStatus, Preview
from contracts.settings import ApiSettings
from contracts.tasks import end
from store.stores import Stores
from telemetry import metrics
from views.job import JobView, Wire, image_url

RETRY_MS: Final = 2000
"""When a client that lost its stream comes back."""
SEND_S: Final = 30.0
"""A client that takes nothing for this long has gone."""
BEAT: Final = ": still here\n\n"
"""A comment, which clients pass over."""

HEADERS: Final = {
    # A cache would hold the stream back, and a compressing proxy would collect it: neither may.
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx and its kin
}

Put = Callable[[str], Awaitable[None]]
"""Sends a piece of the stream to the client, and returns when it may send the next."""
Writer = Callable[[Put], Awaitable[None]]
Left = Callable[[], Awaitable[None]]


class PreviewEvent(Wire):
    """Event `preview`: the first picture of a running job as it stands."""

    index: int
    url: str

    @classmethod
    def of(cls, preview: Preview) -> PreviewEvent:
        return cls(index=preview.index, url=image_url(preview.name))


class Streams:
    """All open streams of this process. Bounded, in all and for each holder (`Principal.holder`): beyond the limit a stream is
    refused, and polling still works."""

    def __init__(self, stores: Stores, catalogue: Catalogue, settings: ApiSettings) -> None:
        self.readings = SharedReadings(stores, catalogue, settings.event_heartbeat_s)
        self._shares = Shares("event_streams", settings.max_event_streams, settings.max_event_streams_per_key)
        self._heartbeat_s = settings.event_heartbeat_s
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream; clients come back to another process and resume there."""
        self._closing.set()

    def of(
        self, caller: Principal, job: Job, last_event_id: str | None, *, headless: bool = False
    ) -> Response:
        """The answer to one who asks for the stream of a job that was just read."""
        last = _sequence(last_event_id)
        if job.status.terminal and last == job.sequence:
            # 204 is how a server tells a browser's EventSource not to come back.
            return Response(None, 204)
        if headless:
            return Response(None, 200, HEADERS, media_type="text/event-stream")
        return self.open(partial(self._follow, job.tenant, job.id, last), caller.holder)

    def open(self, write: Writer, holder: str, left: Left | None = None) -> Response:
        """A stream whose body `write` puts, text by text. Sending it raises `TooManyStreams` where there are too many, and
        `QuotaExceeded` where `holder` has too many. `left` is called when nobody reads it any more: the client went before its
        end, or it could not be opened."""
        return _EventStream(partial(self._serve, holder=holder, left=left), write)

    async def _follow(self, tenant: str, job_id: str, last: int | None, put: Put) -> None:
        """Everything that there is to tell of a job. A store that is away ends the stream: the client comes back."""
        # Jittered, so that those who were cut off together do not come back together.
        await put(f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n")
        before: JobView | None = None
        sequence = last
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        async with aclosing(self.readings.follow(tenant, job_id)) as readings:
            async for job, view, previews in readings:
                # In passing, as a place in the queue: who was not there has missed them, and loses nothing of the result.
                shown = previews if before is not None else ()
                text = "".join(_event("preview", PreviewEvent.of(each)) for each in shown)
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
        """One stream until all is written, the client has gone, or the process closes."""
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
        # Cut off, or no longer to be sent to: nobody was there for the rest.
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
    """The events that bring one who knows the record as of `last` up to `sequence`; empty: nothing is new. Pure.

    `before` is what was read last for this stream; None for its first reading. A `last` of None, or one that the record
    has never reached (it was lost and built again), is answered with a snapshot.
    """
    if before is None and (last is None or last > sequence):
        if view.status.terminal:
            # Whoever listens for the end alone hears it too, and the id comes with it.
            return _event("snapshot", view) + _changes(view, sequence, status=True, progress=False)
        return _event("snapshot", view, sequence)
    if sequence == last:
        moved = before is not None and (view.queue_position, view.eta_seconds) != (
            before.queue_position,
            before.eta_seconds,
        )
        # A place in the queue is no change of the record: it is told in passing, without an id.
        return _event("status", _status(view)) if moved and view.status is JobStatus.QUEUED else ""
    # A job that runs again after its worker died goes back to `queued`, or starts anew without a step done.
    status = before is None or view.status is not before.status or view.progress is None
    progress = view.progress is not None and (before is None or view.progress != before.progress)
    return _changes(view, sequence, status=status, progress=progress and not view.status.terminal)


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
    # JSON of one line: pydantic escapes line ends, which would cut the event.
    return sse(name, data.model_dump_json(), sequence)


def sse(name: str, data: str, id_: int | None = None) -> str:
    """One event; `data` is a single line."""
    number = "" if id_ is None else f"id: {id_}\n"
    return f"event: {name}\n{number}data: {data}\n\n"


def _sequence(last_event_id: str | None) -> int | None:
    """The sequence in a `Last-Event-ID`; None where there is none of ours."""
    text = (last_event_id or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
