"""Calls of a fixed size, and recordings: what is drawn is the same to the bit, whoever shares the batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError
from worker.engine.memory_plan import Plan
from worker.engine.padded_batch import MOST_RECORDINGS, CudaRecorder, Network, RecordedNetwork, run_padded

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"


def test_every_call_has_the_same_number_of_rows() -> None:
    shapes: list[tuple[int, ...]] = []

    def network(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        shapes.append((len(one), len(other)))
        return one + other

    rows = torch.arange(7.0)
    for count in range(1, 8):
        answer = run_padded(network, 3, rows[:count], rows[:count] * 10)
        assert torch.equal(answer, rows[:count] * 11)
    assert set(shapes) == {(3, 3)}
    run_padded(network, None, rows, rows)
    assert shapes[-1] == (7, 7)


class Tape:
    """A recorder without a device: replaying runs the network again on the buffers, into the same answer, as CUDA does."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.replays = 0

    def record(
        self, network: Network, buffers: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        self.recorded.append(tuple(buffers[0].shape))
        made = network(*buffers)

        def replay() -> None:
            self.replays += 1
            made.copy_(network(*buffers))

        return made, replay


def test_a_shape_is_recorded_once_and_answers_do_not_share_memory() -> None:
    tape = Tape()
    network = RecordedNetwork(lambda x: x * 2, tape)
    first, second = network(torch.ones(2)), network(torch.full((2,), 5.0))
    assert (first.tolist(), second.tolist()) == ([2, 2], [10, 10])
    network(torch.ones(3))
    network(torch.ones(2, dtype=torch.float16))
    assert tape.recorded == [(2,), (3,), (2,)]
    assert tape.replays == 4
    with network.aside():
        assert network(torch.ones(2)).tolist() == [2, 2]
    assert tape.replays == 4, "the weights may be elsewhere"
    network(torch.ones(2))
    assert len(tape.recorded) == 4, "recorded anew"
    for size in range(10, 10 + MOST_RECORDINGS):
        network(torch.ones(size))
    assert len(tape.recorded) == 4 + MOST_RECORDINGS - 1
    assert network(torch.ones(5)).tolist() == [2] * 5


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warmed up on a stream of its own, both streams waiting for each other, and captured into the shared pool."""
    said: list[str] = []

    class Around:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            said.append(f"enter {self.name}")

        def __exit__(self, *_: object) -> None:
            said.append(f"leave {self.name}")

    def stream(name: str) -> Any:
        return SimpleNamespace(
            name=name, wait_stream=lambda other: said.append(f"{name} waits for {other.name}")
        )

    main = stream("main")
    graph = SimpleNamespace(replay=lambda: said.append("replay"))
    fake = SimpleNamespace(
        graph_pool_handle=lambda: "pool",
        Stream=lambda: stream("aside"),
        current_stream=lambda: main,
        stream=lambda each: Around(each.name),
        CUDAGraph=lambda: graph,
        graph=lambda each, pool: Around(f"{pool} {each is graph}"),
    )
    monkeypatch.setattr(torch, "cuda", fake)

    def network(x: torch.Tensor) -> torch.Tensor:
        said.append("run")
        return x + 1

    made, replay = CudaRecorder().record(network, [torch.ones(1)])
    replay()
    assert made.tolist() == [2]
    assert said == [
        "aside waits for main",
        *("enter aside", "run", "run", "leave aside"),
        "main waits for aside",
        *("enter pool True", "run", "leave pool True"),
        "replay",
    ]


@pytest.fixture(scope="module")
def fixed() -> DiffusersEngine:
    settings = WorkerSettings(model=str(MODEL), device="cpu", max_batch=8, fixed_batch=3)
    engine = DiffusersEngine(settings, "emoji-turbo")
    engine.load()
    return engine


def drawn(engine: DiffusersEngine, key: BatchKey, tasks: list[ImageTask]) -> list[bytes]:
    """Pictures of `tasks`, all of as many steps, through batches of them all."""
    numbers = tuple(range(len(tasks)))
    answers = engine.advance(Batch(key, numbers, dict(enumerate(tasks))))
    while isinstance(answers[0], Progress):
        answers = engine.advance(Batch(key, numbers))
    return [each.rgb for each in answers if isinstance(each, Pixels)]


SLOW = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize(
    "guided", [pytest.param(False, marks=SLOW), pytest.param(True, marks=SLOW)], ids=["plain", "guided"]
)
def test_a_picture_is_equal_to_the_bit_in_any_company(fixed: DiffusersEngine, guided: bool) -> None:
    key = BatchKey("emoji-turbo", 64, 64, guided=guided)
    steps = 2 if guided else 1
    tasks = [
        ImageTask(f"a {colour} fish", "a hat" if guided else "", seed, steps, 2.0)
        for seed, colour in enumerate(["red", "green", "blue", "pink", "black"])
    ]
    alone = {task: drawn(fixed, key, [task])[0] for task in tasks}
    chance = random.Random(3)
    for size in (2, 3, 5):
        fixed.prompts.forget()
        company = chance.sample(tasks, size)
        for task, picture in zip(company, drawn(fixed, key, company), strict=True):
            assert picture == alone[task], f"{task.prompt} among {size}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_size_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "largest_batch", lambda _, wish: min(wish, 2))
    settings = WorkerSettings(model=str(MODEL), device="cpu", fixed_batch=4)
    with pytest.raises(ModelLoadError, match="DARKROOM_FIXED_BATCH=4: only 2 fit"):
        DiffusersEngine(settings, "emoji-turbo").load()
