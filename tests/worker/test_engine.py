"""The engine in its own process: what it answers, and what the host makes of crashes, hangs and its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from contracts.engine import Batch, BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from scheduler.recovery import Failure
from worker.engine.host import EngineHost, EngineLoadError
from worker.engine.messages import Done, Failed

pytestmark = pytest.mark.slow

KEY = BatchKey("fake", 64, 64, guided=False)


@pytest.fixture
def host() -> Iterator[EngineHost]:
    host = EngineHost(WorkerSettings(engine="fake", model="fake", batch_timeout_s=1.0))
    host.start()
    yield host
    host.kill()


def batch(*prompts: str) -> Batch:
    tasks = {seed: ImageTask(prompt, "", seed) for seed, prompt in enumerate(prompts)}
    return Batch(KEY, tuple(tasks), tasks)


def test_a_batch_answers_one_image_per_task_in_order(host: EngineHost) -> None:
    done = host.run(batch("a", "b", "c"))
    assert isinstance(done, Done)
    assert all(isinstance(image, Pixels) and len(image.rgb) == 64 * 64 * 3 for image in done.samples)
    assert host.run(batch("a", "b")) is not None
    again = host.run(batch("other", "b"))
    assert isinstance(again, Done)
    assert again.samples == done.samples[:2], "the seed alone decides"


def test_a_bad_image_is_told_apart_from_a_bad_batch(host: EngineHost) -> None:
    done = host.run(batch("a", "fault:nan"))
    assert isinstance(done, Done)
    assert isinstance(done.samples[0], Pixels)
    assert isinstance(done.samples[1], ImageFault)
    assert done.samples[1].code == "invalid_output"
    assert host.run(batch("a", "fault:raise")) == Failed(Failure.FAULT, "ValueError")
    failed = host.run(batch("fault:oom>=2", "b"))
    assert isinstance(failed, Failed)
    assert failed.failure is Failure.OUT_OF_MEMORY
    assert isinstance(host.run(batch("fault:oom>=2")), Done)


def test_samples_take_their_steps_side_by_side_and_those_that_leave_are_forgotten(host: EngineHost) -> None:
    tasks = {1: ImageTask("a", "", 1, 3), 2: ImageTask("b", "", 2, 1)}
    first = host.run(Batch(KEY, (1, 2), tasks))
    assert isinstance(first, Done)
    assert first.samples[0] == Progress(1, 3)
    assert isinstance(first.samples[1], Pixels)
    second = host.run(Batch(KEY, (1,)))
    assert isinstance(second, Done)
    assert second.samples == [Progress(2, 3)]
    gone = host.run(Batch(KEY, (1,), leaving=(1,)))
    assert isinstance(gone, Failed), "nobody knows it any more"


@pytest.mark.parametrize(
    ("prompt", "reason"), [("fault:crash", "died"), ("fault:hang", "hung"), ("fault:sticky", "died")]
)
def test_a_process_that_dies_or_hangs_is_replaced(host: EngineHost, prompt: str, reason: str) -> None:
    before = host.pid
    failed = host.run(batch("a", prompt))
    assert isinstance(failed, Failed)
    assert failed.failure is Failure.CRASH
    assert reason in failed.reason
    assert isinstance(host.run(batch("a")), Failed), "there is none until it is started again"
    host.start()
    assert host.pid != before
    assert isinstance(host.run(batch("a")), Done)


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_reason() -> None:
    host = EngineHost(WorkerSettings(engine="diffusers", model="models/recipe", device="cpu"))
    with pytest.raises(EngineLoadError, match=r"model_index\.json"):
        host.start()
    assert host.pid is None


def test_the_engine_ends_with_its_host_even_in_the_middle_of_a_batch() -> None:
    program = (
        "from tests.worker.test_engine import *\n"
        "import threading\n"
        "host = EngineHost(WorkerSettings(engine='fake', model='fake'))\n"
        "host.start()\n"
        "print(host.pid, flush=True)\n"
        "host.run(batch('fault:hang'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2)
        os.kill(parent.pid, signal.SIGKILL)
        engine.wait(5)
