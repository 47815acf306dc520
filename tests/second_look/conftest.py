"""Held images on real stores, a fake endpoint, and what lets its model look at them."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.blobs import public_name
from cli.services.redis import RedisServer
from contracts.jobs import Job
from contracts.moderation import Verdict
from contracts.reviews import Review
from contracts.second_look import LookCall
from contracts.transitions import End, Finished
from duties.dispatch import Dispatcher
from moderation.carrying import Carrying
from moderation.held import lead_of
from moderation.live import LivePolicy
from moderation.reviewing import Person, Reviewing
from second_look.endpoint import Endpoint, checked
from second_look.looker import Looker
from second_look.owed import OwedLooks
from store.stores import Stores
from telemetry import metrics
from tests.second_look.fake_endpoint import MODEL, FakeEndpoint, endpoint_running
from tests.store.held import held_image, image, result_of
from tests.store.made import new
from tests.stores import StoreClock, opened_stores

ADA = Person("dk_ada", "Ada")
EVE = Person("dk_eve", "Eve")
RULE = {"pictures": {"review": 0.5, "block": 0.95}, "second_look": {"review": 0.2, "block": 0.8}}
_keys = itertools.count(1)

ACTOR = f"second-look:{MODEL}"
BOTH = ["release", "refuse"]


def counted(outcome: str) -> float:
    """Second looks that ended so."""
    return metrics.SECOND_LOOKS.labels(outcome)._value.get()  # type: ignore[no-any-return]


@dataclass
class Desk:
    """A platform's stores, and one process that asks the model."""

    stores: Stores
    clock: StoreClock
    looker: Looker
    reviewing: Reviewing
    dispatcher: Dispatcher[LookCall]
    queue: list[LookCall]

    async def held(self, tenant: str = "public", verdict: Verdict | None = None, **case: Any) -> Job:
        """A job that has ended with one held image."""
        number = next(_keys)
        job = new(f"{number:064x}", tenant)
        data = b"image %d" % number
        name = await self.stores.blobs.put(data, "png", is_held=True)
        ref = image(number).model_copy(update={"name": name})
        changes = {"prompt": "a sword", **case} if verdict is None else {"verdict": verdict, **case}
        held = held_image(number, **changes).model_copy(
            update={"name": public_name(name), "second_look": True}
        )
        (submitted,) = [await self.stores.jobs.submit(job)]
        claim: Any = await self.stores.jobs.claim(submitted.job.message(), "w")
        (answer,) = await self.stores.jobs.end_many([End(claim.lease, result_of(ref), None, held=(held,))])
        assert answer == Finished(applied=True)
        return await self.stores.jobs.get(tenant, job.id)

    async def tick(self) -> int:
        """Dispatch what is due and make those attempts."""
        moved = await self.dispatcher.tick()
        while self.queue:
            await self.looker.run(self.queue.pop(0))
        return moved

    async def review(self, job: Job) -> Review:
        assert job.result is not None
        name = await self.stores.reviews.of_job(job.id, 0)
        assert name is not None
        return lead_of(await self.stores.reviews.find(name))

    async def name(self, job: Job) -> str:
        return (await self.review(job)).name

    async def image(self, job: Job) -> Any:
        """The image of the job, as its record has it now."""
        result = (await self.stores.jobs.get(job.tenant, job.id)).result
        assert result is not None
        return result.images[0]

    async def trail(self) -> list[tuple[str, str]]:
        """What the audit trail has: action and actor of each entry."""
        return [
            (entry.what["action"], entry.what["by"])
            for entry in await self.stores.moderation_log.read(0, 100)
        ]


Opener = Callable[..., Any]


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with endpoint_running() as running:
        yield running


def policy_text(url: str, **second_look: Any) -> str:
    rules = second_look.pop("rules", {"weapons": RULE})
    tenants = second_look.pop("tenants", {})
    look = {"url": url, "model": MODEL, "timeout_s": 20, **second_look}
    return yaml.safe_dump(
        {"name": "house", "version": 1, "second_look": look, "rules": rules, "tenants": tenants}
    )


def write_policy(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


@pytest.fixture
async def opened(
    anyio_backend: str, redis_server: RedisServer, tmp_path: Path, endpoint: FakeEndpoint
) -> AsyncIterator[Opener]:
    """Opens a desk whose policy has these fields of the second look; `reviewers` is how many must agree."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def open_(reviewers: int, fields: dict[str, Any]) -> AsyncIterator[Desk]:
            path = tmp_path / "policy.yaml"
            write_policy(path, policy_text(fields.pop("url", endpoint.url), **fields))
            queue: list[LookCall] = []

            async def enqueue(calls: object) -> None:
                queue.extend(calls)  # type: ignore[arg-type]

            async with opened_stores(redis_server, tmp_path / "blobs") as stores:
                clock = StoreClock(stores, redis_server.url)
                trail = stores.moderation_log
                carrying = Carrying(stores, trail, clock, 3600.0)
                reviewing = Reviewing(stores.reviews, carrying, trail, clock, reviewers=reviewers)
                asks = Endpoint()
                looker = Looker(
                    stores.looks,
                    stores.reviews,
                    stores.blobs,
                    reviewing,
                    LivePolicy[None].opened(path, checked),
                    asks,
                    clock,
                    lambda: 0.5,
                )
                outbox = OwedLooks(stores.looks, lambda: looker.patience_s)
                dispatcher = Dispatcher(outbox, enqueue, "second_look_dispatch", metrics.SECOND_LOOKS_DUE)
                yield Desk(stores, clock, looker, reviewing, dispatcher, queue)
                await asks.close()

        async def open_desk(reviewers: int = 1, **fields: Any) -> Desk:
            return await stack.enter_async_context(open_(reviewers, fields))

        yield open_desk
