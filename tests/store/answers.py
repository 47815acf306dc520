"""What the job store has answered, as tests of groups read it."""

from __future__ import annotations

from contracts.jobs import Job, NewJob
from contracts.transitions import SubmitAnswer, Submitted
from store.jobs import RedisJobStore
from tests.store.conftest import World


def address(job: NewJob) -> str:
    return f"scope.model.revision.{job.key}"


def job_of(answer: SubmitAnswer) -> Job:
    assert isinstance(answer, Submitted), answer
    return answer.job


def store_of(world: World) -> RedisJobStore:
    assert isinstance(world.stores.jobs, RedisJobStore)
    return world.stores.jobs
