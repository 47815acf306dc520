"""Random courses of an index against an exact one in a dictionary: on every engine, whatever the order of calls."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from contracts.pictures import SHARED
from search.index import Place
from search.where import Where
from tests.search.engines import ENGINES, Engine
from tests.search.made import CLIP, DIMENSIONS, Exact, assert_same, name_of, record, vector

T = TypeVar("T")

SCOPES = ("a", "b", SHARED)
WORDS = ("red", "blue", "rocket", "car", "a")
scopes = st.sampled_from(SCOPES)
several = st.lists(scopes, max_size=3)
numbers = st.integers(0, 15)
prompts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
models = st.sampled_from(["", "emoji-turbo", "sd-turbo"])
maybe_sides = st.none() | st.integers(60, 68)
maybe_times = st.none() | st.integers(0, 20).map(float)
filters = st.builds(
    Where,
    alive_at=maybe_times,
    model=st.none() | models,
    lora=st.none() | st.sampled_from(["", "pixel"]),
    min_width=maybe_sides,
    max_width=maybe_sides,
    created_from=maybe_times,
    created_to=maybe_times,
    seed=st.none() | st.integers(0, 3),
    source=st.sampled_from([None, "generated", "imported"]),
)
wheres = st.just(Where()) | filters
places = st.builds(Place, st.integers(0, 20).map(float), numbers.map(name_of))
pictures = st.builds(
    record,
    numbers,
    scopes,
    turned=st.none() | st.integers(0, 5),
    prompt=prompts,
    model=models,
    lora=st.sampled_from(["", "pixel"]),
    width=st.integers(60, 68),
    created_at=st.integers(0, 20).map(float),
    expires_at=st.integers(1, 21).map(float),
    seed=st.none() | st.integers(0, 3),
    source=st.sampled_from(["generated", "imported"]),
)


class Course(RuleBasedStateMachine):
    """`engine` is set by the test."""

    engine: Engine

    @initialize()
    def begin(self) -> None:
        self.right = Exact()
        self.folder = tempfile.TemporaryDirectory(prefix="index-")
        self.runner = asyncio.Runner()
        self.index = self.engine.make(Path(self.folder.name))
        self.run(lambda: self.index.open(CLIP, DIMENSIONS, fresh=True))

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.runner.run(call())

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.index.close)
            self.runner.close()
            self.folder.cleanup()

    @rule(records=st.lists(pictures, max_size=6))
    def put(self, records: list[Any]) -> None:
        assert list(self.run(lambda: self.index.put(records))) == []
        self.right.put(records)

    @rule(scope=scopes, gone=st.lists(numbers, max_size=4))
    def delete(self, scope: str, gone: list[int]) -> None:
        names = [name_of(number) for number in gone]
        assert self.run(lambda: self.index.delete(scope, names)) == self.right.delete(scope, names)

    @rule(scope=scopes)
    def erase(self, scope: str) -> None:
        assert self.run(lambda: self.index.erase(scope)) == self.right.erase(scope)

    @rule(now=st.integers(0, 21).map(float))
    def expire(self, now: float) -> None:
        assert self.run(lambda: self.index.expire(now, 100)) == self.right.expire(now, 100)

    @rule(scope=scopes, number=numbers)
    def get(self, scope: str, number: int) -> None:
        found = self.run(lambda: self.index.get(scope, name_of(number)))
        assert found == self.right.records.get((scope, name_of(number)))

    @rule(within=several, seed=st.integers(0, 15), count=st.integers(1, 20), where=wheres)
    def nearest(self, within: list[str], seed: int, count: int, where: Where) -> None:
        found = self.run(lambda: self.index.nearest(within, vector(seed), count, where))
        every = self.right.nearest(within, vector(seed), 1000, where)
        assert_same(found, every[:count], every, self.engine.slack)

    @rule(within=several, text=prompts, count=st.integers(1, 20), where=wheres)
    def by_words(self, within: list[str], text: str, count: int, where: Where) -> None:
        found = self.run(lambda: self.index.by_words(within, text, count, where))
        every = self.right.by_words(within, text, 1000, where)
        assert_same(found, every[:count], every, 1e-5)

    @rule(within=several, count=st.integers(1, 20), where=wheres, before=st.none() | places)
    def newest(self, within: list[str], count: int, where: Where, before: Place | None) -> None:
        found = self.run(lambda: self.index.newest(within, count, where, before))
        assert list(found) == self.right.newest(within, count, where, before)

    @rule(flush=st.booleans())
    def reopen(self, flush: bool) -> None:
        if flush:
            self.run(self.index.flush)
        self.run(self.index.close)
        self.run(lambda: self.index.open(CLIP, DIMENSIONS))

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "runner"):
            assert self.run(self.index.count) == self.right.count()
            for scope in SCOPES:
                assert self.run(partial(self.index.count, scope)) == self.right.count(scope)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_an_index_answers_as_an_exact_one_does(name: str) -> None:
    course = type("Course", (Course,), {"engine": ENGINES[name]})
    options = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(course, settings=options)
