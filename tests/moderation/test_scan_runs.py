"""Scans that meet deletes, other jobs, other scans and the death of their process; what the trail and the metrics say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from api.catalogue import Catalogue
from api.scrape_gauges import refresh
from contracts.jobs import Job
from moderation.scanning import ScanRunning
from runtime.clock import SystemClock
from tests.moderation.scans import OTHER, Desk, images
from tests.store.conftest import World, redis_cluster, watching, world  # noqa: F401
from tests.worker.policies import BLOCKED, HELD, SHOWN, TAGGED, name_of, policy_in

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:  # noqa: F811
    return Desk(world.stores, world.settings, policy_in(tmp_path / "policy"))


async def test_what_is_deleted_while_the_scan_runs_is_gone(desk: Desk) -> None:
    """A file, and a whole job with its image after the image was judged."""
    job = await desk.shown(SHOWN)
    await desk.stores.blobs.delete(name_of(SHOWN), float("inf"))
    assert images(await desk.scan()) == {"gone": 1}
    assert await desk.states(job) == [None]
    held = await desk.shown(HELD)
    after = await desk.scan(dry_run=True)
    assert images(after) == {"gone": 1, "held": 1}
    await desk.stores.blobs.delete(name_of(HELD), float("inf"))
    assert images(await desk.scan()) == {"gone": 2}, "although it is known what was found in it"
    assert await desk.stores.reviews.find(name_of(HELD)) == []
    assert await desk.states(held) == [None]


async def test_jobs_that_are_answered_from_the_cache_meanwhile_are_told_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await desk.shown(HELD)
    late: list[Job] = []
    scan_pictures = desk.stores.pictures.scan

    async def after_a_hit(cursor: str = "") -> Any:
        if not late:  # all jobs were looked at, and their images are taken away
            late.append(await desk.shown(HELD, stored=False))
        return await scan_pictures(cursor)

    monkeypatch.setattr(desk.stores.pictures, "scan", after_a_hit)
    scan = await desk.scan()
    assert (images(scan), scan.jobs) == ({"held": 1}, 2)
    assert [await desk.states(job) for job in (first, *late)] == [["in_review"], ["in_review"]]
    assert await desk.public(HELD) == [False]


async def test_one_process_scans_at_a_time(desk: Desk) -> None:
    await desk.shown(HELD)
    assert await desk.stores.scans.lock("another", 60.0)
    with pytest.raises(ScanRunning, match="Another process"):
        await desk.scan()
    assert await desk.public(HELD) == [True]
    await desk.stores.scans.unlock("another")
    assert images(await desk.scan()) == {"held": 1}


async def test_the_audit_trail_says_who_scanned_by_which_policy_and_what_became_of_the_images(
    desk: Desk,
) -> None:
    await desk.shown(HELD, tenant="acme")
    await desk.scan(tenant="acme")
    begun, ended = await desk.stores.moderation_log.read(0, 9)
    assert (begun.what["action"], begun.what["by"], begun.what["policy"]) == ("scan", "ada", "house@3")
    assert ended.what["action"] == "scan_ended"
    assert (ended.what["images"], ended.what["jobs"]) == ({"held": 1}, 1)
    assert "acme" not in begun.model_dump_json() + ended.model_dump_json()


class Killed(BaseException):
    """Stands for the end of the process."""


class Mortal:
    """Lets a scan make so many writes, and no more."""

    def __init__(self, desk: Desk, patch: pytest.MonkeyPatch, writes: int) -> None:
        self.left = writes
        for part, steps in (
            (desk.stores.scans, ("mark", "change", "take_away", "put")),
            (desk.stores.blobs, ("put", "delete")),
            (desk.stores.results, ("delete",)),
            (desk.stores.moderation_log, ("append",)),
        ):
            for step in steps:
                patch.setattr(part, step, self._counted(getattr(part, step)))

    def _counted(self, call: Any) -> Any:
        async def counted(*arguments: Any, **options: Any) -> Any:
            if not self.left:
                raise Killed
            self.left -= 1
            return await call(*arguments, **options)

        return counted


@pytest.mark.parametrize("writes", range(0, 30, 2))
async def test_a_scan_that_died_after_any_write_goes_on_and_counts_exactly(desk: Desk, writes: int) -> None:
    jobs = [
        await desk.shown(HELD, SHOWN, recorded=True),
        await desk.shown(BLOCKED, OTHER),
        await desk.shown(HELD),
    ]
    await desk.put(TAGGED)
    with pytest.MonkeyPatch.context() as patch:
        Mortal(desk, patch, writes)
        with pytest.raises(Killed):
            await desk.scan()
    scan = await desk.scan()
    assert images(scan) == {"held": 1, "blocked": 1, "passed": 2, "tagged": 1}
    assert (scan.jobs, scan.results) == (3, 3)
    assert [await desk.states(job) for job in jobs] == [["in_review", None], ["blocked", None], ["in_review"]]
    assert await desk.public(HELD, BLOCKED, SHOWN, OTHER, TAGGED) == [False, False, True, True, True]
    reviews = await desk.stores.reviews.find(name_of(HELD))
    assert {each.id for review in reviews for each in review.jobs} == {jobs[0].id, jobs[2].id}
    for job in jobs:
        assert (await desk.job(job)).sequence == job.sequence + 1, "each owner is told once"
    entries = [entry.what["action"] for entry in await desk.stores.moderation_log.read(0, 9)]
    assert entries == ["scan", "scan_ended"]


async def test_the_api_s_gauges_show_the_scan(desk: Desk) -> None:
    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"darkroom_moderation_scan_{name}", labels)

    catalogue = Catalogue(desk.stores.models, SystemClock(), None)
    await desk.shown(HELD, SHOWN)
    seen = []
    pictures_scan = desk.stores.pictures.scan

    async def scraped(cursor: str = "") -> Any:
        await refresh(desk.stores, catalogue, None, 1.0)
        seen.append(value("running"))
        return await pictures_scan(cursor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.stores.pictures, "scan", scraped)
        await desk.scan()
    await refresh(desk.stores, catalogue, None, 1.0)
    assert (set(seen), value("running")) == ({1.0}, 0.0)
    assert (value("images", outcome="held"), value("images", outcome="passed")) == (1.0, 1.0)
    assert value("images", outcome="blocked") == 0.0
