"""The list of faults, continued: messages that go to the broker together."""

from __future__ import annotations

import signal
from typing import Any, Final

from tests.faults.round import Round, Row
from tests.faults.rows import gone
from tests.faults.rows_more import STAYING

MEET_S: Final = 0.01
"""The broker is this far away, so that submits of a few clients meet on the way to it."""
MAX_MESSAGE_BYTES: Final = 1500
LONG: Final = "long " * 300
EVERY: Final = 20
"""One of so many jobs has a message that is too large."""


def api_killed_in_a_group(one: Round) -> None:
    one.site.stop("api")
    one.site.start("api", f"die_in_group={one.rng.randint(1, 4)}")
    one.site.ready(2)
    line = one.site.lines["api-rabbit"]
    line.delay(MEET_S)
    one.load(seconds=1.0)
    gone(one, "api")
    one.fault("die_in_group")
    line.heal()
    one.site.ensure()
    one.healed()
    one.load(seconds=2.0, jobs=max(1, one.jobs // 4))


def one_refused_in_a_group(one: Round) -> None:
    """RabbitMQ closes the channel for a message that is too large, and the others of its group with it. The workers stand still: a job that
    one of them has taken from the store is accepted, whatever becomes of its message."""

    def body(seed: int) -> dict[str, Any]:
        return {"prompt": LONG if seed % EVERY == 0 else "slow=0.02", "seed": seed}

    one.site.stop("api")  # the limit holds for channels that are opened later
    one.site.rabbit_env("max_message_size", str(MAX_MESSAGE_BYTES))
    one.site.ensure()
    for number in (1, 2):
        one.site.send(f"worker-{number}", signal.SIGSTOP)
    line = one.site.lines["api-rabbit"]
    try:
        line.delay(MEET_S)
        one.fault("one of twenty messages is too large")
        submits = one.load(seconds=1.0, body=body).join()
    finally:
        line.heal()
        one.site.rabbit_env("max_message_size", str(128 * 2**20))
        for number in (1, 2):
            one.site.send(f"worker-{number}", signal.SIGCONT)
        one.site.stop("api")
        one.site.ensure()
    one.healed()
    for each in submits:
        wanted = "refused" if each.seed % EVERY == 0 else "accepted"
        one.find(each.outcome == wanted, f"{each.outcome} with {each.status}, not {wanted}")
    one.find({each.outcome for each in submits} == {"accepted", "refused"}, "not both outcomes")
    one.find({each.status for each in submits} <= {200, 202, 503}, "an answer of another kind")


GROUP_ROWS: Final = (
    Row(50, "kill -9 the API in the middle of a group commit", "ALDXT", api_killed_in_a_group, jobs=100),
    Row(
        51,
        "a group commit in which one job is refused",
        "ALDXT",
        one_refused_in_a_group,
        jobs=60,
        settings=STAYING,
    ),
)
