"""Whose picture is decoded next: fair, bounded, nobody forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.pictures.turns import Ticket, Turns


def ticket(tenant: str, memory: int = 1, held: int = 1) -> Ticket[None]:
    return Ticket(tenant, memory, held, None)


def test_tenants_take_turns_whoever_came_first() -> None:
    turns = Turns[None](processes=1, memory_bytes=10, room_bytes=100)
    many = [ticket("a") for _ in range(6)]
    for each in many:
        assert turns.add(each) == []
    running = turns.begin()
    assert running is many[0]
    one, other = ticket("b"), ticket("c")
    turns.add(one)
    turns.add(other)
    order = []
    while running is not None:
        turns.leave(running)
        running = turns.begin()
        order.append(running)
    # The one tenant is behind the others from its second picture on.
    assert order == [many[1], one, other, *many[2:], None]


def test_what_does_not_fit_waits_and_is_not_overtaken() -> None:
    turns = Turns[None](processes=4, memory_bytes=10, room_bytes=100)
    first, large, small = ticket("a", 6), ticket("b", 6), ticket("c", 1)
    for each in (first, large, small):
        turns.add(each)
    assert turns.begin() is first
    assert turns.begin() is None
    turns.leave(first)
    assert turns.begin() is large
    assert turns.begin() is small


def test_where_there_is_no_room_the_largest_share_gives_way() -> None:
    turns = Turns[None](processes=1, memory_bytes=10, room_bytes=10)
    held = [ticket("a", held=3) for _ in range(3)]
    assert [turns.add(each) for each in held] == [[], [], []]
    fourth = ticket("a", held=3)
    assert turns.add(fourth) == [fourth], "its own share is the largest"
    assert turns.add(ticket("b", held=3)) == [held[2]], "the last one of it"
    assert turns.add(ticket("c", held=20)) != [], "and whatever is larger than the room"


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(1, 9),
            st.integers(1, 9),
            st.sampled_from(["add", "end", "leave"]),
        ),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_bounds_hold_and_all_have_their_turn(steps: list[tuple[str, int, int, str]], processes: int) -> None:
    turns = Turns[None](processes, memory_bytes=10, room_bytes=20)
    waiting: list[Ticket[None]] = []
    running: list[Ticket[None]] = []

    def advance() -> None:
        while (begun := turns.begin()) is not None:
            waiting.remove(begun)
            running.append(begun)
        assert len(running) <= processes
        assert sum(each.memory_bytes for each in running) <= 10
        assert sum(each.held_bytes for each in waiting) <= 20

    for tenant, memory, held, what in steps:
        if what == "add":
            new = ticket(tenant, memory, held)
            waiting.append(new)
            for dropped in turns.add(new):
                waiting.remove(dropped)
        elif what == "end" and running:
            turns.leave(running.pop(0))
        elif what == "leave" and waiting:
            turns.leave(waiting.pop(len(waiting) // 2))
        advance()
    while running:
        turns.leave(running.pop(0))
        advance()
    assert waiting == []
