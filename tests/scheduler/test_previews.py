"""When a picture in the making is shown."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.previews import preview_steps


@pytest.mark.parametrize(
    ("steps", "previews", "shown"),
    [(25, 3, (6, 12, 19)), (4, 1, (2,)), (4, 3, (1, 2, 3)), (2, 3, (1,)), (1, 3, ()), (25, 0, ())],
)
def test_they_are_spread_over_the_steps_before_the_last(
    steps: int, previews: int, shown: tuple[int, ...]
) -> None:
    assert preview_steps(steps, previews) == shown


@given(st.integers(1, 200), st.integers(0, 3))
def test_each_once_in_order_never_the_last_and_as_many_as_there_can_be(steps: int, previews: int) -> None:
    shown = preview_steps(steps, previews)
    assert len(shown) == min(previews, steps - 1)
    assert all(0 < step < steps for step in shown)
    assert all(one < other for one, other in pairwise(shown))
