"""The states of a job and every way from one to another, in one place. What is not in the table cannot happen.

`queued` in a record is two states here: a job that *waits* leads its key and has a message, one that *follows* another job waits for
that one's result. `lua/` carries the transitions out, each in one script; `tests/store/test_states.py` tries every event in every state
against a real Redis, and `docs/structure.md` shows this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """`new` is a job without a record, `withdrawn` one whose message could not be published: a mark that stops it."""

    NEW = "new"
    WAITING = "waiting"
    FOLLOWING = "following"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Event(StrEnum):
    SUBMIT = "submit"
    JOIN = "join"
    HIT = "hit"
    TAKE = "take"
    CLAIM = "claim"
    RELEASE = "release"
    LAPSE = "lapse"
    SUCCEED = "succeed"
    FAIL = "fail"
    GIVE_UP = "give up"
    EXHAUST = "exhaust"
    CANCEL = "cancel"
    OVERDUE = "overdue"
    WITHDRAW = "withdraw"
    LEADER_SUCCEEDS = "leader succeeds"
    LEADER_FAILS_ONCE_TOO_OFTEN = "leader fails once too often"
    LEADER_ENDS = "leader ends"


@dataclass(frozen=True, slots=True)
class Transition:
    """`event` moves a job from any of `before` to `after`. `joins` and `leaves` are the indices that list it from then on, or no
    more (`lua/prelude.lua`); `scripts` carry it out. `what` says when it comes, in words."""

    event: Event
    before: tuple[State, ...]
    after: State
    scripts: tuple[str, ...]
    what: str
    joins: frozenset[str] = frozenset()
    leaves: frozenset[str] = frozenset()


LIVE: Final = (State.WAITING, State.FOLLOWING, State.RUNNING)
ENDED: Final = (State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED, State.WITHDRAWN)
INDICES: Final = ("outbox", "leases", "deadlines", "waiting", "tenant", "followers", "flight")
"""Those of one job: sorted sets, the list of its flight's followers, and whether it leads its flight."""
_ALL: Final = frozenset(INDICES) - {"tenant"}
"""What a job leaves that ends; its tenant's list keeps it."""

TRANSITIONS: Final = (
    Transition(
        Event.SUBMIT,
        (State.NEW,),
        State.WAITING,
        ("submit",),
        "nobody computes its key",
        joins=frozenset({"outbox", "deadlines", "waiting", "tenant", "flight"}),
    ),
    Transition(
        Event.JOIN,
        (State.NEW,),
        State.FOLLOWING,
        ("submit",),
        "another job computes its key",
        joins=frozenset({"deadlines", "tenant", "followers"}),
    ),
    Transition(
        Event.HIT,
        (State.NEW,),
        State.SUCCEEDED,
        ("hit", "submit"),
        "its result is known",
        joins=frozenset({"tenant"}),
    ),
    Transition(
        Event.TAKE,
        (State.WAITING,),
        State.RUNNING,
        ("take",),
        "a worker has room, and it is its turn",
        joins=frozenset({"leases"}),
        leaves=frozenset({"waiting"}),
    ),
    Transition(
        Event.CLAIM,
        (State.WAITING, State.FOLLOWING),
        State.RUNNING,
        ("claim",),
        "whoever holds its message runs it at once",
        joins=frozenset({"leases"}),
        leaves=frozenset({"waiting", "outbox"}),
    ),
    Transition(
        Event.CLAIM,
        (State.RUNNING,),
        State.RUNNING,
        ("claim",),
        "its message has come; where its lease has lapsed, another worker has it from now on",
        leaves=frozenset({"outbox"}),
    ),
    Transition(
        Event.RELEASE,
        (State.RUNNING,),
        State.WAITING,
        ("release",),
        "its worker gives it back",
        joins=frozenset({"waiting"}),
        leaves=frozenset({"leases"}),
    ),
    Transition(
        Event.LAPSE,
        (State.RUNNING,),
        State.WAITING,
        ("sweep",),
        "its worker has not renewed its lease",
        joins=frozenset({"waiting"}),
    ),
    Transition(Event.SUCCEED, (State.RUNNING,), State.SUCCEEDED, ("end",), "it is drawn", leaves=_ALL),
    Transition(Event.FAIL, (State.RUNNING,), State.FAILED, ("end",), "it cannot be drawn", leaves=_ALL),
    Transition(
        Event.GIVE_UP,
        (State.RUNNING,),
        State.EXPIRED,
        ("end",),
        "its worker cannot end it in time",
        leaves=_ALL,
    ),
    Transition(
        Event.EXHAUST,
        (State.WAITING,),
        State.FAILED,
        ("take", "claim"),
        "every attempt ended with its worker lost",
        leaves=_ALL,
    ),
    Transition(Event.CANCEL, LIVE, State.CANCELED, ("cancel",), "its owner wants it no more", leaves=_ALL),
    Transition(
        Event.OVERDUE, LIVE, State.EXPIRED, ("sweep", "take", "claim"), "its time is over", leaves=_ALL
    ),
    Transition(
        Event.WITHDRAW,
        (State.WAITING, State.FOLLOWING),
        State.WITHDRAWN,
        ("withdraw",),
        "its message could not be published",
        leaves=frozenset(INDICES),
    ),
    Transition(
        Event.LEADER_SUCCEEDS,
        (State.FOLLOWING,),
        State.SUCCEEDED,
        ("end",),
        "the job that it follows is drawn",
        leaves=_ALL,
    ),
    Transition(
        Event.LEADER_FAILS_ONCE_TOO_OFTEN,
        (State.FOLLOWING,),
        State.FAILED,
        ("end", "take", "claim"),
        "three jobs of its key have failed",
        leaves=_ALL,
    ),
    Transition(
        Event.LEADER_ENDS,
        (State.FOLLOWING,),
        State.WAITING,
        ("end", "cancel", "sweep", "take", "claim", "withdraw"),
        "the job that it follows ends without a picture, and it is the oldest follower",
        joins=frozenset({"outbox", "waiting", "flight"}),
        leaves=frozenset({"followers"}),
    ),
)


def transition(event: Event, before: State) -> Transition | None:
    """What the event does to a job in that state; None: nothing."""
    return next((each for each in TRANSITIONS if each.event is event and before in each.before), None)


def drawing() -> Iterator[str]:
    """The states as a Mermaid diagram, line by line."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    for each in TRANSITIONS:
        for before in each.before:
            start = "[*]" if before is State.NEW else before.value
            yield f"    {start} --> {each.after.value}: {each.event.value}"
    yield "```"


def table() -> Iterator[str]:
    """The transitions as a table of Markdown, line by line."""
    yield "| event | from | to | when | listed in | no more in | script |"
    yield "|---|---|---|---|---|---|---|"
    for each in TRANSITIONS:
        cells = (
            each.event.value,
            ", ".join(each.before),
            each.after.value,
            each.what,
            ", ".join(sorted(each.joins)),
            "all but tenant" if each.leaves == _ALL else ", ".join(sorted(each.leaves)),
            ", ".join(each.scripts),
        )
        yield f"| {' | '.join(cells)} |"
