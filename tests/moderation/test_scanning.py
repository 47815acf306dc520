"""A scan applies the policy to everything that is stored, on a real Redis, a cluster and a real folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.blobs import HELD as FOLDER
from contracts.jobs import Change, Moderated
from contracts.reviews import PastDecision, ReviewState
from moderation.withdrawing import Withdrawal
from tests.moderation.scans import ADA, OTHER, Desk, images
from tests.store.conftest import World, redis_cluster, watching, world  # noqa: F401
from tests.store.held import verdict as held_verdict
from tests.store.made import imported
from tests.worker.policies import BLOCKED, HELD, SHOWN, TAGGED, file_of, name_of, policy_in

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:  # noqa: F811
    return Desk(world.stores, world.settings, policy_in(tmp_path / "policy"))


async def unwanted(desk: Desk) -> set[tuple[str, str]]:
    """What the index must forget: scope and name."""
    pages = [
        await desk.stores.pictures.take_unwanted(shard, 99, 1.0) for shard in desk.stores.pictures.shards
    ]
    return {(each.scope, each.name) for page in pages for each in page}


async def test_each_image_becomes_what_the_policy_says(desk: Desk) -> None:
    job = await desk.shown(HELD, BLOCKED, TAGGED, SHOWN, HELD, recorded=True)
    (cached,) = [page async for page in desk.stores.results.entries()]
    assert len(cached) == 1
    async with watching(desk.stores.events, job.id) as changes:
        scan = await desk.scan()
        # On a cluster the end itself may still be on its way.
        told: Change = await anext(changes)
        while not isinstance(told, Moderated):
            told = await anext(changes)
    after = await desk.job(job)
    assert told.sequence == after.sequence == job.sequence + 1
    assert images(scan) == {"held": 1, "blocked": 1, "tagged": 1, "passed": 1}
    assert (scan.jobs, scan.results, scan.looked, desk.looks) == (1, 1, 4, 4)
    assert after.result is not None
    assert [image.name for image in after.result.images] == [
        FOLDER + name_of(HELD),
        "",
        name_of(TAGGED),
        name_of(SHOWN),
        FOLDER + name_of(HELD),
    ]
    assert await desk.states(job) == ["in_review", "blocked", None, None, "in_review"]
    assert await desk.public(HELD, BLOCKED, TAGGED, SHOWN) == [False, False, True, True]
    assert await desk.stores.blobs.get(FOLDER + name_of(HELD)) == file_of(HELD)
    (review,) = await desk.stores.reviews.find(name_of(HELD))
    assert [(each.id, each.indexes) for each in review.jobs] == [(job.id, (0, 4))]
    assert (review.state, review.severity, review.case.prompt) == (ReviewState.WAITING, 3, "a")
    assert [page async for page in desk.stores.results.entries() if page] == []
    assert {record.name for record in await desk.stores.pictures.read([job.id])} == {
        name_of(TAGGED),
        name_of(SHOWN),
    }
    assert await unwanted(desk) == {("public", name_of(HELD)), ("public", name_of(BLOCKED))}


async def test_a_second_scan_looks_at_nothing_and_changes_nothing(desk: Desk) -> None:
    job = await desk.shown(HELD, SHOWN)
    await desk.put(OTHER)
    first = await desk.scan()
    after = await desk.job(job)
    assert (desk.looks, images(first)) == (3, {"held": 1, "passed": 2})
    second = await desk.scan()
    assert (desk.looks, images(second), second.jobs) == (0, {"passed": 2}, 0)
    assert await desk.job(job) == after
    desk.path.write_text(desk.path.read_text().replace("version: 3", "version: 4"))
    await desk.scan()
    assert desk.looks == 2, "another version looks again"


async def test_a_dry_run_says_what_a_scan_would_do_and_does_nothing(desk: Desk) -> None:
    job = await desk.shown(HELD, BLOCKED, SHOWN)
    dry = await desk.scan(dry_run=True)
    assert (images(dry), dry.jobs) == ({"held": 1, "blocked": 1, "passed": 1}, 1)
    assert await desk.job(job) == job
    assert await desk.public(HELD, BLOCKED, SHOWN) == [True, True, True]
    assert await desk.stores.reviews.find(name_of(HELD)) == []
    assert await desk.stores.moderation_log.read(0, 9) == []
    scan = await desk.scan()
    assert (images(scan), scan.jobs, desk.looks) == (images(dry), dry.jobs, 0)
    assert await desk.states(job) == ["in_review", "blocked", None]


async def test_an_image_of_two_jobs_is_looked_at_once_and_both_owners_are_told(desk: Desk) -> None:
    jobs = [await desk.shown(HELD), await desk.shown(SHOWN, HELD), await desk.shown(HELD, tenant="acme")]
    scan = await desk.scan()
    assert (desk.looks, images(scan), scan.jobs) == (2, {"held": 1, "passed": 1}, 3)
    reviews = await desk.stores.reviews.find(name_of(HELD))
    assert {each.id for review in reviews for each in review.jobs} == {job.id for job in jobs}
    for job in jobs:
        delivery = await desk.stores.webhooks.get(job.tenant, job.id)
        assert delivery.event == "job.succeeded", "that one comes first"
    await desk.reviewing.decide(name_of(HELD), "release", ADA)
    assert [await desk.states(job) for job in jobs] == [["released"], [None, "released"], ["released"]]
    assert await desk.public(HELD) == [True]


async def test_what_people_decided_stands(desk: Desk) -> None:
    job = await desk.shown(HELD)
    await desk.scan()
    await desk.reviewing.decide(name_of(HELD), "release", ADA)
    shown = await desk.job(job)
    for version in (4, 5):
        # The second policy blocks what the person has released.
        text = desk.path.read_text().replace(f"version: {version - 1}", f"version: {version}")
        desk.path.write_text(
            text if version == 4 else text.replace("weapons: {hashes: review}", "weapons: {hashes: block}")
        )
        scan = await desk.scan()
        assert (images(scan), desk.looks) == ({"decided": 1}, 0)
        assert await desk.job(job) == shown
        assert await desk.public(HELD) == [True]


async def test_what_people_refused_is_taken_away_wherever_it_is_shown_since(desk: Desk) -> None:
    first = await desk.shown(HELD)
    await desk.scan()
    await desk.reviewing.decide(name_of(HELD), "refuse", ADA)
    later = await desk.shown(HELD)
    scan = await desk.scan()
    assert images(scan) == {"blocked": 1}
    assert (await desk.states(first), await desk.states(later)) == (["refused"], ["refused"])
    assert await desk.public(HELD) == [False]


async def test_an_image_whose_review_waits_joins_it(desk: Desk) -> None:
    first = await desk.shown(HELD)
    await desk.scan()
    (before,) = await desk.stores.reviews.find(name_of(HELD))
    second = await desk.shown(HELD)
    scan = await desk.scan()
    assert (images(scan), scan.jobs) == ({"held": 1}, 1)
    assert await desk.states(second) == ["in_review"]
    reviews = await desk.stores.reviews.find(name_of(HELD))
    assert {each.id for review in reviews for each in review.jobs} == {first.id, second.id}
    assert min(review.created_at for review in reviews) == before.created_at
    await desk.reviewing.decide(name_of(HELD), "refuse", ADA)
    assert [await desk.states(job) for job in (first, second)] == [["refused"], ["refused"]]


async def test_files_that_nothing_names_are_judged_too(desk: Desk) -> None:
    await desk.put(HELD, BLOCKED, SHOWN)
    scan = await desk.scan()
    assert images(scan) == {"held": 1, "blocked": 1, "passed": 1}
    assert await desk.public(HELD, BLOCKED, SHOWN) == [False, False, True]
    (review,) = await desk.stores.reviews.find(name_of(HELD))
    assert (review.jobs, review.case.width, review.case.prompt) == ((), 64, "")
    assert (await desk.stores.reviews.queue()).waiting == 1
    await desk.reviewing.decide(name_of(HELD), "release", ADA)
    assert await desk.public(HELD) == [True]
    assert images(await desk.scan()) == {"decided": 1, "passed": 1}


async def test_an_imported_image_is_found_by_nobody_until_it_is_released(desk: Desk) -> None:
    for seed in (HELD, BLOCKED):
        await desk.put(seed)
        assert await desk.stores.imports.add(imported(name_of(seed)), f"{seed:064x}")
    scan = await desk.scan()
    assert (images(scan), scan.jobs) == ({"held": 1, "blocked": 1}, 2)
    assert [record async for record in _records(desk)] == []
    assert await unwanted(desk) == {("acme", name_of(HELD)), ("acme", name_of(BLOCKED))}
    assert await desk.stores.imports.known("acme", [f"{HELD:064x}"]) == {}
    await desk.reviewing.decide(name_of(HELD), "release", ADA)
    (back,) = [record async for record in _records(desk)]
    assert (back.name, back.prompt, back.source, back.scope) == (
        name_of(HELD),
        "a red apple",
        "imported",
        "acme",
    )
    owed = [await desk.stores.pictures.take(shard, 9, 1.0) for shard in desk.stores.pictures.shards]
    assert back.job_id in {job_id for page in owed for job_id in page}
    assert await desk.stores.imports.known("acme", [f"{HELD:064x}"]) == {f"{HELD:064x}": name_of(HELD)}
    await desk.reviewing.undo(name_of(HELD), ADA)
    assert [record async for record in _records(desk)] == [], "a rebuild of the index does not find it"
    assert await desk.stores.imports.known("acme", [f"{HELD:064x}"]) == {}


async def _records(desk: Desk) -> Any:
    cursor = ""
    while True:
        cursor, page = await desk.stores.pictures.scan(cursor)
        for record in page:
            yield record
        if not cursor:
            return


async def test_words_of_a_prompt_hold_images_that_no_list_knows(desk: Desk) -> None:
    (desk.path.parent / "words.txt").write_text("pistol\n")
    desk.path.write_text(
        desk.path.read_text().replace("weapons: {hashes: review}", "weapons: {hashes: review, words: block}")
        + "words:\n  lists: [{file: words.txt, category: weapons, tenants: [acme]}]\n"
    )
    theirs = await desk.shown(SHOWN, tenant="acme", prompt="a p1stol")
    others = await desk.shown(OTHER, prompt="a pistol")
    assert images(await desk.scan()) == {"blocked": 1, "passed": 1}
    assert (await desk.states(theirs), await desk.states(others)) == (["blocked"], [None])


async def test_a_tenant_s_own_rules_count(desk: Desk) -> None:
    desk.path.write_text(desk.path.read_text() + "tenants:\n  lab: {weapons: {hashes: allow}}\n")
    lab = await desk.shown(HELD, tenant="lab")
    assert images(await desk.scan()) == {"passed": 1}
    assert (await desk.states(lab), await desk.public(HELD)) == ([None], [True])


async def test_a_scan_may_be_of_one_tenant_or_of_what_is_new(desk: Desk) -> None:
    mine, theirs = await desk.shown(HELD), await desk.shown(BLOCKED, tenant="acme")
    await desk.put(OTHER)
    assert images(await desk.scan(since=theirs.created_at + 3600)) == {}
    assert images(await desk.scan(tenant="acme")) == {"blocked": 1}
    assert (await desk.states(mine), await desk.states(theirs)) == ([None], ["blocked"])


async def test_a_record_for_the_search_leads_to_the_right_image_of_its_job(desk: Desk) -> None:
    """The tenant's own rules let both images pass; others may not find the second one."""
    desk.path.write_text(desk.path.read_text() + "tenants:\n  lab: {weapons: {hashes: allow}}\n")
    job = await desk.shown(SHOWN, HELD, tenant="lab", recorded=True)
    scanned: list[str] = []
    for shard in desk.stores.pictures.shards:
        scanned += await desk.stores.pictures.take(shard, 9, 1.0)
    assert scanned == [job.id]
    (record,) = [each for each in await desk.stores.pictures.read([job.id]) if each.name == name_of(HELD)]
    withdrawal = Withdrawal(desk.stores, 5000.0)
    assert await withdrawal.from_record(record, held_verdict())
    assert await desk.states(job) == [None, "in_review"]
    after = await desk.job(job)
    assert after.result is not None
    assert [image.name for image in after.result.images] == [name_of(SHOWN), FOLDER + name_of(HELD)]
    await desk.reviewing.decide(name_of(HELD), "release", ADA)
    after = await desk.job(job)
    assert after.result is not None
    assert [image.name for image in after.result.images] == [name_of(SHOWN), name_of(HELD)]


@pytest.mark.parametrize("block", [False, True])
async def test_what_a_model_released_alone_stands_unless_the_policy_blocks_it(
    desk: Desk, block: bool
) -> None:
    job = await desk.shown(HELD)
    past = PastDecision(state=ReviewState.RELEASED, decision_id="d", at=1.0, by_model=True)
    await desk.stores.reviews.remember(name_of(HELD), past)
    if block:
        rule = "weapons: {hashes: review}"
        assert rule in desk.path.read_text()
        desk.path.write_text(desk.path.read_text().replace(rule, "weapons: {hashes: block}"))
    assert images(await desk.scan()) == ({"blocked": 1} if block else {"decided": 1})
    assert await desk.states(job) == (["blocked"] if block else [None])


async def test_an_image_that_a_layer_cannot_look_at_stays_and_is_counted(desk: Desk, tmp_path: Path) -> None:
    """It was shown before: a broken model must not take everything away."""
    job = await desk.shown(SHOWN)
    name = await desk.stores.blobs.put(b"no image at all", "png")
    scan = await desk.scan()
    assert images(scan) == {"passed": 1, "unjudged": 1}
    assert await desk.stores.blobs.exists(name)
    assert await desk.states(job) == [None]
