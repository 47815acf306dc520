"""The list of faults, continued: dead letters that cannot be settled yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kombu import Connection

from broker.topology import DEAD_LETTER_QUEUE, dead_letter_queue, task_message
from contracts.ids import new_job_id, shard_of
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings
from store.key_names import Layout
from store.stores import open_stores
from tests.faults.round import Round, Row

LOOKS: Final = 60
"""RabbitMQ 4 drops what was given back 20 times."""
JOB_S: Final = 25.0
WAIT_S: Final = 60.0


def letters_that_stay(one: Round) -> None:
    """Letters of jobs that run are looked at 60 times, beside one whose record cannot be read: none vanishes meanwhile, and a
    letter behind them is settled."""
    one.site.stop("api")
    one.site.start("api", "look=0.05")
    one.site.ready(2)
    began = time.time()
    one.load(seconds=0.5, prompt=f"slow={JOB_S}", repeats=False).join()
    _wait(one, lambda: one.site.running_jobs(began) == one.jobs, "not all jobs run")
    busy = asyncio.run(_messages(one, list(one.site.records(began))))
    key, unreadable = _unreadable(busy[0])
    with one.site.control as client:
        client.set(key, "no record at all")
    looks = _looks(one)
    _send(one, [unreadable, *busy])
    one.fault(f"{len(busy)} dead letters of jobs that run, one that cannot be read")
    _wait(one, lambda: _looks(one) >= looks + LOOKS, f"not looked at {LOOKS} times")
    one.find(one.site.running_jobs(began) == one.jobs, "a job ended before its letter was looked at enough")
    one.note("looks", _looks(one) - looks)
    one.site.stop("api")
    _wait(one, lambda: _waiting(one) == len(busy) + 1, "letters vanished")
    one.site.ensure()
    one.healed()
    one.end()
    # Those of ended jobs are acknowledged: what comes back from an API that ends is the one that cannot be read.
    looks = _looks(one)
    _wait(one, lambda: _looks(one) > looks + 1, "not looked at after the jobs had ended")
    one.site.stop("api")
    _wait(one, lambda: _waiting(one) == 1, "a letter of an ended job stays, or the other has vanished")
    with Connection(one.site.rabbit.url) as connection, one.site.control as client:
        connection.channel().queue_purge(DEAD_LETTER_QUEUE)
        client.delete(key)


async def _messages(one: Round, job_ids: list[str]) -> list[JobMessage]:
    """The messages of these jobs, as the store would send them again."""
    stores = open_stores(
        BackendSettings(redis_url=one.site.state.url, blob_dir=Path(one.site.folder / "blobs"))
    )
    try:
        return [(await stores.jobs.get("public", job_id)).message() for job_id in job_ids]
    finally:
        await stores.close()


def _unreadable(like: JobMessage) -> tuple[str, JobMessage]:
    """A job that nobody submitted, and the key of its record."""
    message = like.model_copy(update={"job_id": new_job_id(time.time(), shard_of(like.job_id))})
    return Layout(BackendSettings().shards).job_key(message.job_id), message


def _send(one: Round, messages: list[JobMessage]) -> None:
    with Connection(one.site.rabbit.url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        dead_letter_queue()(channel).declare()
        for message in messages:
            letter = channel.prepare_message(task_message(message)[0], properties={"delivery_mode": 2})
            channel.basic_publish(letter, exchange="", routing_key=DEAD_LETTER_QUEUE)


def _waiting(one: Round) -> int:
    """Dead letters that nobody holds. Asked as a client: what rabbitmqctl lists is seconds old."""
    with Connection(one.site.rabbit.url) as connection:
        return int(connection.channel().queue_declare(DEAD_LETTER_QUEUE, passive=True).message_count)


def _looks(one: Round) -> int:
    """Rounds that came to the letter that cannot be read: each is a line of the log."""
    with suppress(FileNotFoundError):
        return (one.site.folder / "api" / "output.log").read_text(errors="replace").count('"sweep_failed"')
    return 0


def _wait(one: Round, ready: Callable[[], bool], words: str) -> None:
    until = time.monotonic() + WAIT_S
    while not ready() and time.monotonic() < until:
        time.sleep(0.05)
    one.find(ready(), words)


LETTER_ROWS: Final = (
    Row(
        45,
        "dead letters looked at 60 times, and one that cannot be read",
        "ALDXT",
        letters_that_stay,
        jobs=4,
        settings={"DARKROOM_BATCH_TIMEOUT_S": "60"},
    ),
)
