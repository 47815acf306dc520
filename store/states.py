"""The states of a job and every transition between them, in one table. What is not in the table
cannot happen.

The status `queued` in a record covers two states. A job that *waits* leads its key and has a
message. A job that *follows* waits for the result of another job. Each transition is one script in
`lua/`. `tests/store/test_states.py` tries every event in every state against a real Redis.
`docs/structure.md` shows this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a job is. `new` is a job without a record. `withdrawn` is a mark that stops a job whose
    message could not be published."""

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
    """What can happen to a job. `Transition.what` says when each event happens."""

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
    LEADER_IS_BLOCKED = "leader is blocked"
    LEADER_ENDS = "leader ends"


@dataclass(frozen=True, slots=True)
class Transition:
    """`event` moves a job from any state of `before` to `after`.

    `scripts` name the Lua scripts that do it. `what` says in words when it happens. `joins` are the
    indices that list the job from then on, `leaves` those that no longer do (`lua/prelude.lua`).
    """

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
"""The indices of one job: sorted sets, the list of its flight's followers, and whether it leads its
flight."""
_ALL: Final = frozenset(INDICES) - {"tenant"}
"""The indices that a job leaves when it ends. The list of its tenant keeps it."""

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
        "a worker has room, and the job is next in fair order",
        joins=frozenset({"leases"}),
        leaves=frozenset({"waiting"}),
    ),
    Transition(
        Event.CLAIM,
        (State.WAITING, State.FOLLOWING),
        State.RUNNING,
        ("claim",),
        "the worker that holds its message runs it at once",
        joins=frozenset({"leases"}),
        leaves=frozenset({"waiting", "outbox"}),
    ),
    Transition(
        Event.CLAIM,
        (State.RUNNING,),
        State.RUNNING,
        ("claim",),
        "its message was delivered; a lapsed lease goes to the new worker",
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
        "its worker did not renew its lease",
        joins=frozenset({"waiting"}),
    ),
    Transition(
        Event.SUCCEED, (State.RUNNING,), State.SUCCEEDED, ("end",), "its images are drawn", leaves=_ALL
    ),
    Transition(
        Event.FAIL, (State.RUNNING,), State.FAILED, ("end",), "its images cannot be drawn", leaves=_ALL
    ),
    Transition(
        Event.GIVE_UP,
        (State.RUNNING,),
        State.EXPIRED,
        ("end",),
        "its worker cannot finish it in time",
        leaves=_ALL,
    ),
    Transition(
        Event.EXHAUST,
        (State.WAITING,),
        State.FAILED,
        ("take", "claim"),
        "every attempt ended with a lost worker",
        leaves=_ALL,
    ),
    Transition(Event.CANCEL, LIVE, State.CANCELED, ("cancel",), "its owner cancels it", leaves=_ALL),
    Transition(
        Event.OVERDUE, LIVE, State.EXPIRED, ("sweep", "take", "claim"), "its deadline has passed", leaves=_ALL
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
        "the images of its leader are drawn",
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
        Event.LEADER_IS_BLOCKED,
        (State.FOLLOWING,),
        State.FAILED,
        ("end",),
        "moderation blocks all images of its leader",
        leaves=_ALL,
    ),
    Transition(
        Event.LEADER_ENDS,
        (State.FOLLOWING,),
        State.WAITING,
        ("end", "cancel", "sweep", "take", "claim", "withdraw"),
        "its leader ends without images, and it is the oldest follower",
        joins=frozenset({"outbox", "waiting", "flight"}),
        leaves=frozenset({"followers"}),
    ),
)


def transition(event: Event, before: State) -> Transition | None:
    """The transition of a job in state `before` at this event; None: nothing happens."""
    return next((row for row in TRANSITIONS if row.event is event and before in row.before), None)


def drawing() -> Iterator[str]:
    """The lines of a Mermaid diagram of the states."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    for row in TRANSITIONS:
        for before in row.before:
            start = "[*]" if before is State.NEW else before.value
            yield f"    {start} --> {row.after.value}: {row.event.value}"
    yield "```"


def table() -> Iterator[str]:
    """The lines of a Markdown table of the transitions."""
    yield "| event | from | to | when | listed in | no more in | script |"
    yield "|---|---|---|---|---|---|---|"
    for row in TRANSITIONS:
        cells = (
            row.event.value,
            ", ".join(row.before),
            row.after.value,
            row.what,
            ", ".join(sorted(row.joins)),
            "all but tenant" if row.leaves == _ALL else ", ".join(sorted(row.leaves)),
            ", ".join(row.scripts),
        )
        yield f"| {' | '.join(cells)} |"
