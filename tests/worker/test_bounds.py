"""A worker believes no bound of a message: what the API would have refused fails at once, and costs its neighbours nothing.

A real batcher, a real engine process (the fake one), real stores.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.jobs import JobStatus
from contracts.requests import MAX_TEXT_CHARS, Lora
from contracts.settings import WorkerSettings
from tests.worker.conftest import Room
from worker.deliveries import Verdict
from worker.engine.container import machine_memory
from worker.engine.memory_watchdog import limit_of

PICTURE = "0" * 64 + ".png"
MIB = 1 << 20


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("num_images", {"num_images": 50_000_000}),
        ("num_images", {"num_images": 5}),
        ("width", {"width": 1_000_000}),
        ("width", {"width": 65}),
        ("height", {"height": 0}),
        ("num_inference_steps", {"num_inference_steps": 1_000_000}),
        ("guidance_scale", {"guidance_scale": 1e300}),
        ("lora", {"lora": Lora(name="unknown")}),
        ("strength", {"strength": 0.5}),
        ("strength", {"init_image": PICTURE, "strength": 0.5}),
        ("prompt", {"prompt": "x" * (MAX_TEXT_CHARS + 1)}),
        ("negative_prompt", {"negative_prompt": "\x00"}),
        ("model", {"model": "another"}),
    ],
)
async def test_a_message_beyond_the_model_fails_at_once(
    room: Room, param: str, changes: dict[str, Any]
) -> None:
    given = {"prompt": "a", **changes}
    good, beyond = await room.submit("good"), await room.submit(**given)
    if "model" in changes:
        # It came by this model's queue, though its request names another.
        beyond = beyond.model_copy()
        lease = await room.stores.jobs.claim(beyond, "w")
        await room.runner.run(_taken(beyond, lease))
    else:
        assert await room.run(good, beyond) == [Verdict.ACK, Verdict.ACK]
        assert (await room.job(good)).status is JobStatus.SUCCEEDED
    job = await room.job(beyond)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert (job.failure.code, job.failure.retryable, job.attempt) == ("out_of_bounds", False, 1)
    assert job.failure.message.startswith(param)
    assert room.fetcher.steps_per_job < 2, "it counts for nobody's forecast"


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_prompt_that_is_no_text_fails_at_once(room: Room) -> None:
    """No store keeps such a record: the message that the worker has taken is made to hold it."""
    taken = await room.submit("a")
    lease = await room.stores.jobs.claim(taken, "w")
    request = taken.request.model_copy(update={"prompt": "half \ud800"})
    await room.runner.run(_taken(taken.model_copy(update={"request": request}), lease))
    failure = (await room.job(taken)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("out_of_bounds", False)
    assert failure.message.startswith("prompt")


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_picture_of_another_size_is_not_decoded(room: Room) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(file, "PNG")
    name = await room.stores.blobs.put(file.getvalue(), "png")
    beyond = await room.submit("a", init_image=name, strength=1.0)
    assert await room.run(beyond) == [Verdict.ACK]
    assert await room.failure(beyond) == "out_of_bounds"


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_job_larger_than_this_workers_batch_is_drawn_in_batches(room: Room) -> None:
    """Workers of one model may have room for batches of different sizes."""
    room.batcher._active._max_batch = 2
    job = await room.submit("a", num_images=4)
    assert await room.run(job) == [Verdict.ACK]
    assert (await room.job(job)).status is JobStatus.SUCCEEDED


def _taken(message: Any, claim: Any) -> Any:
    from contracts.transitions import TakenJob

    return TakenJob(message, claim.lease)


def test_the_tightest_memory_limit_counts(tmp_path: Path) -> None:
    cgroups, membership = tmp_path / "cgroup", tmp_path / "membership"
    everything = machine_memory(cgroups, membership)
    assert everything is not None
    assert everything > 64 * MIB, "the machine's"
    unit = cgroups / "system.slice" / "darkroom.service"
    unit.mkdir(parents=True)
    membership.write_text("4:cpu:/elsewhere\n0::/system.slice/darkroom.service\n")
    (unit / "memory.max").write_text("max\n")
    assert machine_memory(cgroups, membership) == everything
    (unit.parent / "memory.max").write_text(f"{40 * MIB}\n")
    assert machine_memory(cgroups, membership) == 40 * MIB, "of a group above it"
    (cgroups / "memory.max").write_text(f"{30 * MIB}\n")
    assert machine_memory(cgroups, membership) == 30 * MIB, "of a container"
    first = cgroups / "memory" / "pod"
    first.mkdir(parents=True)
    membership.write_text("4:cpu,memory:/pod\n")
    (first / "memory.limit_in_bytes").write_text(f"{20 * MIB}\n")
    assert machine_memory(cgroups, membership) == 20 * MIB, "of the first version of control groups"


def test_the_engine_has_a_limit_unless_it_is_switched_off() -> None:
    assert WorkerSettings().engine_memory_bytes is None
    assert limit_of(None, 16_000 * MIB) == 14_400 * MIB
    assert limit_of(None, 2_048 * MIB) == (2_048 - 384) * MIB
    assert limit_of(None, 400 * MIB) == 200 * MIB
    assert limit_of(None, None) is None
    assert limit_of(7, 16_000 * MIB) == 7
    assert WorkerSettings(engine_memory_bytes=0).engine_memory_bytes == 0
    assert limit_of(0, 16_000 * MIB) is None
