"""The bounded cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.lru import LruCache

KEYS = st.integers(0, 6)


@given(st.integers(0, 4), st.lists(st.tuples(st.sampled_from(["get", "set", "pop", "in"]), KEYS)))
def test_it_holds_what_was_used_last(limit: int, calls: list[tuple[str, int]]) -> None:
    cache = LruCache[int, int](limit)
    model: list[tuple[int, int]] = []
    """Keys and values, the one used longest ago first."""
    for at, (call, key) in enumerate(calls, start=1):
        known = dict(model).get(key)
        rest = [entry for entry in model if entry[0] != key]
        match call:
            case "get":
                assert cache.get(key) == known
                model = model if known is None else [*rest, (key, known)]
            case "set":
                cache[key] = at
                model = [*rest, (key, at)][-limit:] if limit else []
            case "pop":
                assert cache.pop(key) == known
                model = rest
            case _:
                assert (key in cache) is (known is not None)
        assert list(cache) == [key for key, _ in model]
        assert len(cache) == len(model)


def test_a_cleared_cache_is_empty() -> None:
    cache = LruCache[str, int](2)
    cache["a"] = 1
    cache.clear()
    assert (len(cache), cache.get("a")) == (0, None)
