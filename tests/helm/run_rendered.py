"""`python -m tests.helm.run_rendered [--values FILE ...]`: runs the chart as it is rendered, on this machine.

It does what a cluster would: Jobs run to their end, Deployments keep their pods, roll and scale, Services know which pods are ready, and
the `helm test` pod is run. RabbitMQ and Redis are real and private. See `tests/helm/pods.py` for what a pod is here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import selectors
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from tests.helm.chart import Rendered, render
from tests.helm.pods import Cluster, Pod, PodError

ROLLOUT_S: Final = 240.0
POLL_S: Final = 0.05


class RolloutError(Exception):
    """A Deployment did not come up in time; the message holds the logs of its pods."""


class Service:
    """A TCP proxy to the ready pods, one after the other, as a Service is."""

    def __init__(self, ready: Callable[[], list[tuple[str, int]]]) -> None:
        turn = itertools.count()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                endpoints = ready()
                if not endpoints:
                    return
                try:
                    with socket.create_connection(endpoints[next(turn) % len(endpoints)], 5) as inner:
                        _pump(self.request, inner)
                except OSError:
                    return

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.request_queue_size = 256
        self._server.server_bind()
        self._server.server_activate()
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with selectors.DefaultSelector() as waiting:
        waiting.register(one, selectors.EVENT_READ, other)
        waiting.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in waiting.select():
                source: Any = key.fileobj
                data = source.recv(65_536)
                if not data:
                    return
                key.data.sendall(data)


@dataclass
class Deployment:
    """The pods of one Deployment, and what they should be."""

    manifest: dict[str, Any]
    pods: list[Pod] = field(default_factory=list)

    @property
    def template(self) -> str:
        return json.dumps(self.manifest["spec"]["template"], sort_keys=True)


class LocalCluster:
    """A release, run from its manifests. `apply` as often as you like; `close` at the end."""

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]] | None = None) -> None:
        self.cluster = Cluster(folder, secrets=dict(secrets or {}))
        self.deployments: dict[str, Deployment] = {}
        self.gone: list[Pod] = []
        """Pods that have been terminated: none of them should have been `killed`."""
        self._services: dict[str, Service] = {}
        self._jobs: set[str] = set()
        self._numbers = itertools.count(1)
        self.rendered: Rendered

    def apply(self, rendered: Rendered) -> None:
        """What `helm upgrade --wait` does. Raises `PodError`, `RolloutError`."""
        self.rendered = rendered
        self.cluster.config_maps |= {
            each["metadata"]["name"]: each["data"] for each in rendered.every("ConfigMap")
        }
        self.cluster.secrets |= {
            each["metadata"]["name"]: each["stringData"] for each in rendered.every("Secret")
        }
        for each in rendered.every("Service"):
            self._serve(each)
        jobs = [threading.Thread(target=self._run_job, args=(each,)) for each in rendered.every("Job")]
        for job in jobs:
            job.start()
        wanted = {each["metadata"]["name"]: each for each in rendered.every("Deployment")}
        for name in self.deployments.keys() - wanted.keys():
            self._terminate(self.deployments.pop(name).pods)
        rollouts = []
        for name, manifest in wanted.items():
            deployment = self.deployments.setdefault(name, Deployment(manifest))
            rollouts.append((deployment, deployment.template, manifest))
            deployment.manifest = manifest
        for deployment, old, _ in rollouts:
            self._roll(deployment, old)
        for job in jobs:
            job.join()

    def url(self, service: str) -> str:
        """Where the Service whose name ends so listens here."""
        (found,) = [each for name, each in self._services.items() if name.endswith(service)]
        return f"http://127.0.0.1:{found.port}"

    def pods(self, ending: str = "") -> list[Pod]:
        return [pod for name, each in self.deployments.items() if name.endswith(ending) for pod in each.pods]

    def helm_test(self) -> str:
        """What the test pod says. Raises `PodError` if it fails."""
        manifest = self.rendered.one("Pod", "-test-picture")
        pod = Pod(
            f"test-{next(self._numbers)}", manifest["metadata"]["labels"], manifest["spec"], self.cluster
        )
        code = pod.run_to_end(300)
        if code:
            raise PodError(f"the test ended with {code}:\n{pod.logs()}")
        return pod.logs()

    def close(self) -> None:
        for deployment in self.deployments.values():
            self._terminate(deployment.pods)
        for service in self._services.values():
            service.close()

    def _serve(self, manifest: dict[str, Any]) -> None:
        name, selector = manifest["metadata"]["name"], manifest["spec"]["selector"]
        (port,) = manifest["spec"]["ports"]

        def ready() -> list[tuple[str, int]]:
            return [
                pod.address(port["targetPort"])
                for pod in self.pods()
                if pod.ready and selector.items() <= pod.labels.items()
            ]

        if name not in self._services:
            self._services[name] = Service(ready)
            self.cluster.services[f"{name}:{port['port']}"] = f"127.0.0.1:{self._services[name].port}"

    def _run_job(self, manifest: dict[str, Any]) -> None:
        name, template = manifest["metadata"]["name"], manifest["spec"]["template"]
        if name in self._jobs:
            return
        self._jobs.add(name)
        for attempt in range(manifest["spec"]["backoffLimit"] + 1):
            pod = Pod(f"{name}-{attempt}", template["metadata"]["labels"], template["spec"], self.cluster)
            if pod.run_to_end(manifest["spec"]["activeDeadlineSeconds"]) == 0:
                return
        raise PodError(f"Job {name} failed")

    def _roll(self, deployment: Deployment, old: str) -> None:
        """Replace and add pods until all are of the template, ready, and as many as wanted."""
        spec = deployment.manifest["spec"]
        replicas = spec.get("replicas", 1)
        rolling = spec["strategy"].get("rollingUpdate", {"maxSurge": 0, "maxUnavailable": replicas})
        changed = old != deployment.template
        if changed and spec["strategy"].get("type") == "Recreate":
            self._terminate(deployment.pods)
        stale = list(deployment.pods) if changed else []
        until = time.monotonic() + ROLLOUT_S
        ending: list[threading.Thread] = []
        while True:
            fresh = [pod for pod in deployment.pods if pod not in stale]
            ready = [pod for pod in deployment.pods if pod.ready]
            if not stale and len(fresh) == replicas and all(pod.ready for pod in fresh):
                break
            room = replicas + (rolling["maxSurge"] if stale else 0) - len(deployment.pods)
            for _ in range(min(room, replicas - len(fresh))):
                deployment.pods.append(self._start(deployment))
            spare = len(ready) - (replicas - rolling["maxUnavailable"])
            surplus = stale[: max(0, spare)] if stale else fresh[replicas:]
            for pod in surplus:
                deployment.pods.remove(pod)
                if pod in stale:
                    stale.remove(pod)
                ending.append(self._end(pod))
            if time.monotonic() > until:
                logs = "\n".join(pod.logs()[-3000:] for pod in deployment.pods)
                raise RolloutError(f"{deployment.manifest['metadata']['name']} is not ready:\n{logs}")
            time.sleep(POLL_S)
        for each in ending:
            each.join()

    def _start(self, deployment: Deployment) -> Pod:
        template = deployment.manifest["spec"]["template"]
        name = f"{deployment.manifest['metadata']['name']}-{next(self._numbers)}"
        pod = Pod(name, template["metadata"]["labels"], template["spec"], self.cluster)
        pod.start()
        return pod

    def _end(self, pod: Pod) -> threading.Thread:
        self.gone.append(pod)
        thread = threading.Thread(target=pod.terminate)
        thread.start()
        return thread

    def _terminate(self, pods: list[Pod]) -> None:
        for each in [self._end(pod) for pod in pods]:
            each.join()
        pods.clear()


@contextmanager
def local_cluster(folder: Path, secrets: dict[str, dict[str, str]] | None = None) -> Iterator[LocalCluster]:
    """A cluster without a release yet; all it runs is gone on leaving."""
    cluster = LocalCluster(folder, secrets)
    try:
        yield cluster
    finally:
        cluster.close()


def services(rabbit: RabbitServer, redis: RedisServer, database: int = 0) -> dict[str, Any]:
    """Values that point the chart at real servers of ours, as an operator would at theirs."""
    return {
        "rabbitmq": {"url": rabbit.url, "bundled": {"enabled": False}},
        "redis": {"url": f"redis://127.0.0.1:{redis.port}/{database}", "bundled": {"enabled": False}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the chart as it is rendered, with private services.")
    parser.add_argument("--values", type=Path, action="append", default=[], metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        redis, rabbit = RedisServer(folder / "redis"), RabbitServer(folder / "rabbitmq")
        try:
            redis.start()
            rabbit.start()
            with local_cluster(folder) as cluster:
                cluster.apply(render(services(rabbit, redis), *given.values))
                print(cluster.helm_test())
                print(f"Serving at {cluster.url('-api')}; Ctrl-C ends it.", flush=True)
                threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            rabbit.stop()
            redis.stop()


if __name__ == "__main__":
    main()
