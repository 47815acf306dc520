"""The platform as the chart renders it, run for real: prompt in, picture out; scaled and updated under load; alerts that fire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.tenancy import new_token
from tests.helm.chart import render
from tests.helm.load import Load
from tests.helm.metrics import metrics_used
from tests.helm.pods import PodError
from tests.helm.prometheus import Prometheus
from tests.helm.run_rendered import LocalCluster, RolloutError, local_cluster, services
from tests.helm.tools import ROOT
from worker.download import digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAKE: dict[str, Any] = {
    "model": "fake",
    "revision": "v1",
    "settings": {"engine": "fake", "max_batch": 4, "heartbeat_s": 0.5, "lease_s": 5},
}


KEY = new_token()
HEADERS = {"Authorization": f"Bearer {KEY}"}


def values(base: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Quick to end, where nobody must take notice first."""
    api = {"shutdownDelaySeconds": 1, "replicas": 2, **more.pop("api", {})}
    return {**base, "api": api, "auth": {"adminKey": KEY}, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path) as running:
        yield running


def live(url: str) -> dict[str, Any]:
    (model,) = httpx.get(f"{url}/v1/models", headers=HEADERS).json()["data"]
    found: dict[str, Any] = model
    return found


def wait_until_quiet(prometheus: Prometheus, timeout_s: float) -> None:
    """Until no alert fires. Fails with those that still do."""
    until = time.monotonic() + timeout_s
    while firing := prometheus.firing():
        assert time.monotonic() < until, firing
        time.sleep(0.1)


def wait_for(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_prompt_goes_in_and_a_picture_comes_out(
    cluster: LocalCluster, rabbit_server: RabbitServer, redis_server: RedisServer
) -> None:
    """The embedded model, put on the model volume by the Job that pins it, and every number that anybody asks for."""
    model = {
        "model": "models/emoji-turbo",
        "revision": "v1",
        "download": {"enabled": True, "sha256": digest(ROOT / "models" / "emoji-turbo")},
    }
    given = values(
        services(rabbit_server, redis_server, 11),
        models={"emoji-turbo": model},
        modelCache={"enabled": True},
        api={"replicas": 1},
    )
    cluster.apply(render(given))
    said = cluster.helm_test()
    assert "drawn in" in said, said
    assert (cluster.cluster.folder / "claims" / "rel-darkroom-models" / "emoji-turbo" / "v1").is_dir()

    # A rate is known once a batch has run and the next heartbeat has told of it.
    host, number = cluster.pods("-api")[0].address("http")
    wait_for(lambda: "darkroom_predicted_wait_seconds{" in httpx.get(f"http://{host}:{number}/metrics").text)
    scraped = ""
    for pod, port in ((cluster.pods("-api")[0], "http"), (cluster.pods("-worker-emoji-turbo")[0], "metrics")):
        host, number = pod.address(port)
        scraped += httpx.get(f"http://{host}:{number}/metrics").text
    offered = {line.split()[2] for line in scraped.splitlines() if line.startswith("# TYPE darkroom_")}
    assert metrics_used() - offered == set()
    for name in ("predicted_wait_seconds", "queue_wait_seconds_count", "batch_seconds_count", "images_total"):
        assert f'darkroom_{name}{{model="emoji-turbo"}}' in scraped
    assert 'darkroom_device_memory_bytes{device="cpu",model="emoji-turbo"}' in scraped
    assert 'darkroom_attempts_total{attempt="1",model="emoji-turbo"} 1.0' in scraped


def test_scaled_and_updated_under_load_nothing_is_lost(
    cluster: LocalCluster, rabbit_server: RabbitServer, redis_server: RedisServer
) -> None:
    def given(replicas: int, revision: str = "v1", **api: Any) -> dict[str, Any]:
        model = {**FAKE, "replicas": replicas, "revision": revision}
        return values(
            services(rabbit_server, redis_server, 12), models={"emoji-turbo": None, "fake": model}, api=api
        )

    cluster.apply(render(given(1)))
    url = cluster.url("-api")
    wait_for(lambda: live(url)["revision"] == "v1")
    with Load(url, KEY) as load:
        load.more(10)
        cluster.apply(render(given(3)))
        wait_for(lambda: live(url)["live_workers"] == 3)
        load.more(20)
        cluster.apply(render(given(1)))
        load.more(10)
        cluster.apply(render(given(2, "v2")))
        load.more(10)
        wait_for(lambda: live(url)["revision"] == "v2")  # all old workers have left
        cluster.apply(render(given(2, "v2", settings={"max_prompt_chars": 1000})))
        load.more(10)
    assert load.faults == []
    assert load.ended == {"succeeded": load.ended.total()}
    assert len(cluster.gone) == 2 + 1 + 2, "two scaled down, one worker and two API processes replaced"
    assert [pod.name for pod in cluster.gone if pod.killed or pod.exit_code != 0] == []
    assert [pod.name for pod in [*cluster.gone, *cluster.pods()] if pod.restarts] == []
    print(f"{load.ended.total()} jobs, none lost")


def test_a_wrong_secret_is_a_clear_failure(
    cluster: LocalCluster,
    rabbit_server: RabbitServer,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = services(rabbit_server, redis_server, 13)
    absent = {"existingSecret": {"name": "nowhere"}, "bundled": {"enabled": False}}
    with pytest.raises(PodError, match='CreateContainerConfigError: secret "nowhere" not found'):
        cluster.apply(render(values({**right, "rabbitmq": absent})))
    cluster.cluster.secrets["nowhere"] = {"uri": "amqp://"}
    with pytest.raises(PodError, match="couldn't find key url in Secret nowhere"):
        cluster.apply(render(values({**right, "rabbitmq": absent})))

    wrong = rabbit_server.url.replace("guest:guest", "guest:wrong")
    monkeypatch.setattr("tests.helm.run_rendered.ROLLOUT_S", 8.0)
    right["rabbitmq"]["url"] = wrong
    models = {"emoji-turbo": None, "fake": {**FAKE, "replicas": 0}}
    with pytest.raises(RolloutError, match="rel-darkroom-api is not ready"):
        cluster.apply(render(values(right, models=models, api={"replicas": 1})))
    (pod,) = cluster.pods("-api")
    host, port = pod.address("http")
    told = httpx.get(f"http://{host}:{port}/readyz").json()["error"]
    assert "AccessRefused" in told["details"]["checks"]["broker"]
    assert pod.restarts == 0, "a wrong password is no reason to start anew"


def test_an_alert_fires_on_the_running_platform(
    cluster: LocalCluster, rabbit_server: RabbitServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A real Prometheus scrapes what runs, with the alerts as they are but for their patience."""

    def given(replicas: int) -> dict[str, Any]:
        models = {"emoji-turbo": None, "fake": {**FAKE, "replicas": replicas}}
        return values(
            services(rabbit_server, redis_server, 14),
            models=models,
            settings={"worker_ttl_s": 1},
            # Jobs are taken although nobody serves them, as they are where workers scale to zero.
            api={"replicas": 1, "settings": {"scale_from_zero": True}},
        )

    cluster.apply(render(given(1)))
    url = cluster.url("-api")
    job = httpx.post(f"{url}/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "wait=20", **HEADERS}).json()
    assert job["status"] == "succeeded"
    targets = [cluster.pods("-api")[0].address("http"), cluster.pods("-worker-fake")[0].address("metrics")]
    with Prometheus(tmp_path / "prometheus", targets, process.free_port()) as prometheus:
        wait_for(lambda: prometheus.value("sum(darkroom_live_workers)") == 1.0)
        wait_until_quiet(prometheus, 30.0)  # before its first scrape no API answers
        cluster.apply(render(given(0)))
        assert httpx.post(f"{url}/v1/jobs", json={"prompt": "y"}, headers=HEADERS).status_code == 202
        wait_for(lambda: "DarkroomNoWorker" in prometheus.firing())
        assert prometheus.firing()["DarkroomNoWorker"]["labels"]["model"] == "fake"
        cluster.apply(render(given(1)))
        wait_until_quiet(prometheus, 60.0)
