"""The ways to ask for a picture, each as a client does it: submit and poll, long-poll, events, webhook, OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from benchmarks.load.schedule import Planned

WAIT_S: Final = 30
TERMINAL: Final = frozenset({"succeeded", "failed", "canceled", "expired"})
Json = dict[str, Any]


class Refused(Exception):
    """The server answered with an error; `code` is its own, or the status where it gives none."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


@dataclass(slots=True)
class Progress:
    """What is known of a request while it runs, also when it is cut short."""

    job_id: str | None = None
    job: Json = field(default_factory=dict)


@dataclass(slots=True)
class Caller:
    """What the modes share: the session, where the server is, keys by tenant, and webhooks that are awaited by job id."""

    session: aiohttp.ClientSession
    url: str
    keys: dict[str, str]
    poll_s: float
    hook_url: str = ""
    hooks: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def call(
        self, method: str, path: str, planned: Planned, body: Any = None, prefer: str = ""
    ) -> Json:
        """The JSON of the answer. Raises `Refused`."""
        async with self.session.request(
            method, self.url + path, json=body, headers=self.headers(planned, prefer)
        ) as response:
            return await answer(response)

    def headers(self, planned: Planned, prefer: str = "") -> dict[str, str]:
        headers = {"Prefer": prefer} if prefer else {}
        if key := self.keys.get(planned.tenant):
            headers["Authorization"] = f"Bearer {key}"
        return headers


async def answer(response: aiohttp.ClientResponse) -> Json:
    """The body as JSON. Raises `Refused` for an error."""
    data = await response.read()
    if response.status < 400:
        parsed: Json = json.loads(data)
        return parsed
    try:
        code = str(json.loads(data)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = str(response.status)
    raise Refused(response.status, code)


def _accepted(progress: Progress, job: Json) -> Json:
    progress.job_id, progress.job = job["id"], job
    return job


async def wait(caller: Caller, planned: Planned, progress: Progress) -> None:
    """`Prefer: wait` on the submit, and on reads until the job has ended."""
    prefer = f"wait={WAIT_S}"
    job = _accepted(progress, await caller.call("POST", "/v1/jobs", planned, planned.body, prefer))
    while job["status"] not in TERMINAL:
        job = progress.job = await caller.call("GET", job["urls"]["self"], planned, prefer=prefer)


async def poll(caller: Caller, planned: Planned, progress: Progress) -> None:
    """Submit, then read every `poll_s` seconds."""
    job = _accepted(progress, await caller.call("POST", "/v1/jobs", planned, planned.body))
    while job["status"] not in TERMINAL:
        await asyncio.sleep(caller.poll_s)
        job = progress.job = await caller.call("GET", job["urls"]["self"], planned)


async def sse(caller: Caller, planned: Planned, progress: Progress) -> None:
    """Submit, then follow the job's events until the server closes the stream, and read the job once."""
    job = _accepted(progress, await caller.call("POST", "/v1/jobs", planned, planned.body))
    while job["status"] not in TERMINAL:
        events = job["urls"]["events"] or f"{job['urls']['self']}/events"
        headers = {**caller.headers(planned), "Accept": "text/event-stream"}
        async with caller.session.get(caller.url + events, headers=headers) as stream:
            if stream.status >= 400:
                await answer(stream)
            async for _ in stream.content:
                pass
        job = progress.job = await caller.call("GET", job["urls"]["self"], planned)


async def webhook(caller: Caller, planned: Planned, progress: Progress) -> None:
    """Submit with our address, wait for the server's call, and read the job once."""
    body = {**planned.body, "webhook": {"url": caller.hook_url}}
    job = _accepted(progress, await caller.call("POST", "/v1/jobs", planned, body))
    if job["status"] not in TERMINAL:
        await caller.hooks.setdefault(job["id"], asyncio.get_running_loop().create_future())
        progress.job = await caller.call("GET", job["urls"]["self"], planned)
    caller.hooks.pop(job["id"], None)


async def openai(caller: Caller, planned: Planned, progress: Progress) -> None:
    """`POST /v1/images/generations`, as the `openai` client does it. The answer names no job."""
    body = {name: value for name, value in planned.body.items() if name not in ("width", "height")}
    if "width" in planned.body:
        body["size"] = f"{planned.body['width']}x{planned.body['height']}"
    await caller.call("POST", "/v1/images/generations", planned, body)
    progress.job = {"status": "succeeded"}


Mode = Callable[[Caller, Planned, Progress], Awaitable[None]]
MODES: Final[dict[str, Mode]] = {
    "wait": wait,
    "poll": poll,
    "sse": sse,
    "webhook": webhook,
    "openai": openai,
}
