"""Whatever is killed, hangs or restarts: every accepted job ends, once. The fake engine stands in, for its faults."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.integration.conftest import Deploy, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FAST = {"DARKROOM_LEASE_S": "3", "DARKROOM_HEARTBEAT_S": "0.5", "DARKROOM_MAX_BATCH": "4"}


def many(stack: Stack, count: int, prompt: str = "slow=0.2") -> list[dict[str, Any]]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda i: stack.submit(prompt=prompt, seed=i), range(count)))


def statuses(stack: Stack, jobs: list[dict[str, Any]], timeout_s: float = 90.0) -> Counter[str]:
    with ThreadPoolExecutor(16) as pool:
        return Counter(job["status"] for job in pool.map(lambda job: stack.ended(job, timeout_s), jobs))


def recorded(stack: Stack) -> None:
    """Returns once the store holds a job."""
    until = time.monotonic() + 10.0
    with redis.Redis(port=stack.redis.port) as client:
        while not any(client.scan_iter("*:job:*", count=1000)):
            assert time.monotonic() < until, stack.logs()
            time.sleep(0.01)


@pytest.mark.parametrize("rabbitmq", [True, False], ids=["rabbitmq", "redis"])
def test_a_worker_killed_in_the_middle_of_a_batch_loses_nothing(deploy: Deploy, rabbitmq: bool) -> None:
    stack = deploy(workers=2, rabbitmq=rabbitmq, **FAST)
    jobs = many(stack, 40, "slow=1.0")
    stack.wait_running(9)  # both workers are in the middle of a batch
    stack.kill("worker-1")
    assert statuses(stack, jobs) == {"succeeded": 40}


def test_an_engine_killed_in_the_middle_of_a_batch_is_replaced(deploy: Deploy) -> None:
    stack = deploy(**FAST)
    jobs = many(stack, 30)
    stack.wait_running()
    old = stack.engine("worker-1")
    old.kill()
    assert statuses(stack, jobs) == {"succeeded": 30}
    assert stack.engine("worker-1").pid != old.pid


def test_a_poisonous_prompt_fails_alone(deploy: Deploy) -> None:
    stack = deploy(**FAST)
    jobs = many(stack, 12)
    bad = stack.submit(prompt="fault:crash")
    assert statuses(stack, jobs) == {"succeeded": 12}
    failed = stack.ended(bad)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "engine_crashed")
    assert failed["error"]["retryable"]


def test_a_worker_that_is_asked_to_end_gives_back_what_it_has_not_begun(deploy: Deploy) -> None:
    stack = deploy(workers=2, **FAST)
    jobs = many(stack, 40)
    stack.wait_running()
    begun = time.monotonic()
    stack.kill("worker-1", signal.SIGTERM)
    assert stack.processes["worker-1"].wait(60) == 0
    assert time.monotonic() - begun < 20.0, "the running batch, and no more"
    assert statuses(stack, jobs) == {"succeeded": 40}


def test_a_broker_that_is_killed_and_comes_back(deploy: Deploy) -> None:
    stack = deploy(**FAST, DARKROOM_PUBLISH_TIMEOUT_S="2")
    assert stack.broker is not None
    # More than the worker can get through before the publish times out: it would run the job without a message.
    jobs = many(stack, 80)
    stack.broker.send(signal.SIGKILL)
    refused = stack.http.post("/v1/jobs", json={"prompt": "refused"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "broker_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    assert stack.http.get("/readyz").status_code == 503
    assert stack.http.get("/healthz").status_code == 200
    stack.broker.start()
    stack.wait_ready(1)
    jobs += many(stack, 5, "after")
    assert statuses(stack, jobs) == {"succeeded": 85}


def test_a_redis_that_is_killed_and_comes_back(deploy: Deploy) -> None:
    stack = deploy(**FAST, DARKROOM_REDIS_TIMEOUT_S="1")
    jobs = many(stack, 20)
    time.sleep(1.2)  # the append-only file is synced every second
    stack.redis.send(signal.SIGKILL)
    time.sleep(0.3)
    refused = stack.http.post("/v1/jobs", json={"prompt": "refused"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    stack.redis.start()
    stack.wait_ready(1)
    jobs += many(stack, 5, "after")
    assert statuses(stack, jobs) == {"succeeded": 25}


def test_an_api_killed_between_record_and_publish_is_made_good_by_the_relay(deploy: Deploy) -> None:
    stack = deploy(**FAST, DARKROOM_PUBLISH_TIMEOUT_S="5")
    assert stack.broker is not None
    stack.broker.send(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(stack.http.post, "/v1/jobs", json={"prompt": "left behind"})
        recorded(stack)
        stack.kill("api")
        assert hanging.exception() is not None, "nobody was told that it was accepted"
    stack.broker.send(signal.SIGCONT)
    stack.start("api", "api-2")
    stack.wait_ready(1)
    (job,) = stack.http.get("/v1/jobs").json()["data"]
    assert stack.ended(job, 30)["status"] == "succeeded"


def test_a_job_without_a_worker_expires(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=False, **FAST, DARKROOM_JOB_TTL_S="3", DARKROOM_SCALE_FROM_ZERO="true")
    stack.kill("worker-1", signal.SIGTERM)
    stack.processes["worker-1"].wait(20)
    job = stack.ended(stack.submit(prompt="nobody is there"), 15)
    assert job["status"] == "expired"
