"""`python -m tests.faults.patched api|worker NAME[=VALUE] ...`: a process of ours with something changed in it.

Three kinds. *Mutants* break a promise, and the checker must notice: `ack_first`, `no_fence`, `no_mandatory`, `no_confirm`,
`no_lease`, `no_hold`. *Crash points* kill the process at the VALUE-th passage: `die_before_publish`, `die_in_group`,
`die_before_confirm`, `die_before_answer`, `die_before_clearing`, `die_before_finish`, `die_before_ack`. *Conditions* that cannot be had from outside: `thrice` (every
message is published three times), `clock=SECONDS` (its clock is off), `heartbeat=SECONDS` (of the broker connection),
`newer` (it is of the next version), `look=SECONDS` (between two looks at the dead letters).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tests.faults.newer import newer


def _kill_at(passage: str) -> Callable[..., None]:
    left = int(passage or 1)

    def pass_by(jobs: int = 1) -> None:
        nonlocal left
        left -= jobs
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


def _around(
    owner: Any, name: str, before: Callable[[], None] | None, after: Callable[[], None] | None
) -> None:
    """Wrap the coroutine function `owner.name`."""
    real = getattr(owner, name)

    async def wrapped(*given: Any, **named: Any) -> Any:
        if before:
            before()
        answer = await real(*given, **named)
        if after:
            after()
        return answer

    setattr(owner, name, wrapped)


def _in_lua(words: str, others: str) -> None:
    """Replace `words` in every script of the job store."""
    from store import scripts

    real = scripts.lua_source

    def source(name: str) -> str:
        text = real(name)
        assert words in text, words
        return text.replace(words, others)

    vars(scripts)["lua_source"] = source


def ack_first(_: str) -> None:
    """The message is acked before the job has run."""
    from worker.deliveries import Verdict
    from worker.pool import FuturePool

    def hold(_: FuturePool, held: Any, answer: Callable[[Any], None]) -> None:
        answer(Verdict.ACK)

    FuturePool.hold = hold  # type: ignore[method-assign, assignment]


def no_fence(_: str) -> None:
    """Any attempt may finish a job, at any time."""
    _in_lua("return job and job.status == 'running' and job.attempt == tostring(attempt)", "return job")


def no_mandatory(_: str) -> None:
    """A message that no queue takes is confirmed, and gone."""
    from amqp.channel import Channel

    real = Channel.basic_publish

    def publish(channel: Any, *given: Any, **named: Any) -> Any:
        return real(channel, *given, **{**named, "mandatory": False})

    Channel.basic_publish = publish


def no_confirm(_: str) -> None:
    """A message counts as sent once it is in the socket."""
    from broker.confirms import Confirms

    def wait(confirms: Confirms, connection: Any, timeout_s: float) -> None:
        confirms._ack(confirms._sent, multiple=True)

    Confirms.wait = wait  # type: ignore[method-assign, assignment]


def no_lease(_: str) -> None:
    """A job that another worker runs may be taken all the same."""
    _in_lua("local busy = job.status == 'running' and tonumber(job.lease_until) > NOW", "local busy = false")


def no_hold(_: str) -> None:
    """A held picture is stored where everybody finds it who knows its hash."""
    from backends.blobs import DirectoryBlobStore

    real = DirectoryBlobStore.put

    async def put(store: Any, data: bytes, extension: str, **named: Any) -> str:
        if named.get("is_held"):
            await real(store, data, extension)
        return await real(store, data, extension, **named)

    DirectoryBlobStore.put = put  # type: ignore[method-assign, assignment]


def die_before_publish(passage: str) -> None:
    from broker.publisher import KombuPublisher

    _around(KombuPublisher, "publish", _kill_at(passage), None)


def die_in_group(passage: str) -> None:
    """Half of a group of three and more is with the broker, the rest has not been sent, and none is confirmed."""
    from broker.publishing_link import Link

    pass_by, real = _kill_at(passage), Link._publish_confirmed

    def commit(link: Link, confirms: Any, group: Any, verdicts: Any) -> Any:
        if len(group) >= 3:
            for message in list(group.values())[: len(group) // 2]:
                link._send(message, mandatory=True)
            pass_by()
        return real(link, confirms, group, verdicts)

    Link._publish_confirmed = commit  # type: ignore[method-assign, assignment]


def die_before_confirm(passage: str) -> None:
    from broker.publisher import KombuPublisher

    _around(KombuPublisher, "publish", None, _kill_at(passage))


def die_before_answer(passage: str) -> None:
    """The message is with the broker, and the client has not been told. Whether the job has left the outbox is not known."""
    from api.submit import JobService

    pass_by, real = _kill_at(passage), JobService._accepted

    def accepted(service: JobService, *given: Any, **named: Any) -> Any:
        pass_by()
        return real(service, *given, **named)

    JobService._accepted = accepted  # type: ignore[method-assign, assignment]


def die_before_clearing(passage: str) -> None:
    """The client has been told, and the job stands in the outbox as if it had not been published. Jobs leave it together: each of them
    counts."""
    from store.jobs import RedisJobStore

    pass_by, real = _kill_at(passage), RedisJobStore.confirm_many

    async def confirm_many(store: RedisJobStore, job_ids: Any) -> None:
        pass_by(len(job_ids))
        await real(store, job_ids)

    RedisJobStore.confirm_many = confirm_many  # type: ignore[method-assign, assignment]


def die_before_finish(passage: str) -> None:
    from store.jobs import RedisJobStore

    _around(RedisJobStore, "end_many", _kill_at(passage), None)


def die_before_ack(passage: str) -> None:
    from store.jobs import RedisJobStore

    _around(RedisJobStore, "end_many", None, _kill_at(passage))


def thrice(_: str) -> None:
    from broker.publisher import KombuPublisher

    real = KombuPublisher.publish

    async def publish(publisher: Any, message: Any) -> None:
        for _ in range(3):
            await real(publisher, message)

    KombuPublisher.publish = publish  # type: ignore[method-assign, assignment]


def clock(seconds: str) -> None:
    from runtime.clock import SystemClock

    real = SystemClock.now
    SystemClock.now = lambda self: real(self) + float(seconds)  # type: ignore[method-assign]


def heartbeat(seconds: str) -> None:
    from worker import app

    vars(app)["HEARTBEAT_S"] = int(seconds)


def look(seconds: str) -> None:
    from api import app
    from broker import sweeper

    vars(app)["SWEEP_INTERVAL_S"] = vars(sweeper)["DEAD_EVERY_S"] = float(seconds)


PATCHES: dict[str, Callable[[str], None]] = {
    each.__name__: each
    for each in (
        ack_first,
        no_fence,
        no_mandatory,
        no_confirm,
        no_lease,
        no_hold,
        die_before_publish,
        die_in_group,
        die_before_confirm,
        die_before_answer,
        die_before_clearing,
        die_before_finish,
        die_before_ack,
        thrice,
        clock,
        heartbeat,
        newer,
        look,
    )
}


def main() -> int:
    for given in sys.argv[2:]:
        name, _, value = given.partition("=")
        PATCHES[name](value)
    if sys.argv[1] == "api":
        from api.__main__ import main as run
    else:
        from worker.__main__ import main as run
    return run()


if __name__ == "__main__":
    sys.exit(main())
