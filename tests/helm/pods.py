"""Pods as processes of this machine: init containers, environment, volumes, probes, preStop, SIGTERM and the grace period.

What a kubelet does and this does not: images, control groups, and network namespaces. So every container port is mapped to a free
port of the loopback interface, every volume to a folder, and what names them in commands and variables is translated.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from cli.services import process
from tests.helm.tools import ROOT

BACKOFF_S: Final = 1.0
TICK_S: Final = 0.05


class PodError(Exception):
    """What a kubelet would say of a pod that it cannot start."""


@dataclass
class Cluster:
    """What pods may refer to: values of ConfigMaps and Secrets by name, folders of claims, and addresses of Services."""

    folder: Path
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)


class Pod:
    """One pod. `start` returns at once; `ready`, `exit_code` and `restarts` tell how it fares; `terminate` waits."""

    def __init__(self, name: str, labels: dict[str, str], spec: dict[str, Any], cluster: Cluster) -> None:
        self.name, self.labels, self.spec = name, labels, spec
        self.folder = cluster.folder / "pods" / name
        self.cluster = cluster
        self.ready = False
        self.restarts = 0
        self.exit_code: int | None = None
        self.killed = False
        """Whether the grace period was over before the process was."""
        (container,) = spec["containers"]
        self.container: dict[str, Any] = container
        self.ports = {each["containerPort"]: process.free_port() for each in container.get("ports", [])}
        self._named = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        self._mounts = self._mounted()
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        # Before anything is started, so that what is missing is told at once.
        self._environments = {
            each["name"]: self._environment(each) for each in [*spec.get("initContainers", []), container]
        }

    def start(self) -> None:
        self._thread.start()

    def address(self, port: str) -> tuple[str, int]:
        return "127.0.0.1", self.ports[self._named[port]]

    def terminate(self) -> None:
        """Out of its Services, preStop, SIGTERM, and SIGKILL when the grace period is over."""
        self.ready = False
        self._ending.set()
        until = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30)
        stop = self.container.get("lifecycle", {}).get("preStop", {}).get("sleep")
        if stop:
            time.sleep(stop["seconds"])
        running = self._process
        if running is not None and running.poll() is None:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.killed = True
        self._thread.join(10)
        if running is not None:
            process.end(running, 0.1)
            self.exit_code = running.returncode

    def logs(self) -> str:
        paths = sorted(self.folder.glob("*/output.log"))
        return "\n".join(
            f"--- {self.name} {path.parent.name}\n{path.read_text(errors='replace')}" for path in paths
        )

    def run_to_end(self, timeout_s: float) -> int:
        """For Jobs and test pods: the exit code of the container."""
        started = self._launch(self.container)
        try:
            return started.wait(timeout_s)
        finally:
            process.end(started, 1.0)

    def _live(self) -> None:
        for each in self.spec.get("initContainers", []):
            while not self._ending.is_set():
                started = self._process = self._launch(each)
                while started.poll() is None and not self._ending.wait(TICK_S):
                    pass
                if started.poll() == 0:
                    break
                self.restarts += 1
                self._ending.wait(BACKOFF_S)
        while not self._ending.is_set():
            self._process = self._launch(self.container)
            self._watch(self._process)
            self.ready = False
            if not self._ending.is_set():
                self.restarts += 1
                self._ending.wait(BACKOFF_S)

    def _watch(self, running: subprocess.Popen[bytes]) -> None:
        """Probes the running container until it ends, is told to, or fails its liveness probe."""
        begun = {
            name: _Probe(self.container[f"{name}Probe"], self._answers)
            for name in ("startup", "readiness", "liveness")
            if f"{name}Probe" in self.container
        }
        while running.poll() is None and not self._ending.wait(TICK_S):
            startup = begun.get("startup")
            if startup is not None and not startup.passed:
                startup.tick()
                if startup.failed:
                    process.end(running, 5.0)
                continue
            readiness, liveness = begun.get("readiness"), begun.get("liveness")
            if readiness is not None:
                readiness.tick()
                self.ready = readiness.passed and not readiness.failed and not self._ending.is_set()
            if liveness is not None:
                liveness.tick()
                if liveness.failed:
                    process.end(running, 5.0)

    def _answers(self, probe: dict[str, Any]) -> bool:
        get = probe["httpGet"]
        host, port = self.address(get["port"])
        try:
            url = f"http://{host}:{port}{get['path']}"
            return httpx.get(url, timeout=probe.get("timeoutSeconds", 1)).is_success
        except httpx.HTTPError:
            return False

    def _launch(self, container: dict[str, Any]) -> subprocess.Popen[bytes]:
        words = [self._translate(each) for each in [*container["command"], *container.get("args", [])]]
        program = sys.executable if words[0] == "python" else words[0]
        folder = self.folder / container["name"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [program, *words[1:]],
                cwd=ROOT,  # the images' WORKDIR holds the same folders
                env=self._environments[container["name"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        given = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
        }
        for source in container.get("envFrom", []):
            given |= self._referred(self.cluster.config_maps, source["configMapRef"]["name"], "configmap")
        for each in container.get("env", []):
            given[each["name"]] = each.get("value") if "value" in each else self._value(each["valueFrom"])
        ports = {str(inner): str(outer) for inner, outer in self.ports.items()}
        for name, value in given.items():
            if name.endswith("_PORT") and value in ports:
                given[name] = ports[value]
            elif name.endswith("_HOST") and value == "0.0.0.0":
                given[name] = "127.0.0.1"
            elif name.startswith(("DARKROOM_", "HF_")):
                given[name] = self._translate(value)
        return given

    def _value(self, source: dict[str, Any]) -> str:
        match source:
            case {"secretKeyRef": {"name": name, "key": key}}:
                values, kind = self._referred(self.cluster.secrets, name, "secret"), "Secret"
            case {"configMapKeyRef": {"name": name, "key": key}}:
                values, kind = self._referred(self.cluster.config_maps, name, "configmap"), "ConfigMap"
            case {"fieldRef": {"fieldPath": "metadata.name"}}:
                return self.name
            case _:
                raise PodError(f"{self.name}: {source} is not known here")
        if key not in values:
            raise PodError(
                f"{self.name}: CreateContainerConfigError: couldn't find key {key} in {kind} {name}"
            )
        return values[key]

    def _referred(self, known: dict[str, dict[str, str]], name: str, kind: str) -> dict[str, str]:
        if name not in known:
            raise PodError(f'{self.name}: CreateContainerConfigError: {kind} "{name}" not found')
        return known[name]

    def _mounted(self) -> dict[str, Path]:
        """The folder behind each mount path."""
        folders: dict[str, Path] = {}
        for volume in self.spec.get("volumes", []):
            match volume:
                case {"persistentVolumeClaim": {"claimName": claim}}:
                    folder = self.cluster.folder / "claims" / claim
                case {"emptyDir": _}:
                    folder = self.folder / "volumes" / volume["name"]
                case {"secret": {"secretName": name, "items": items}}:
                    folder = self.folder / "volumes" / volume["name"]
                    folder.mkdir(parents=True, exist_ok=True)
                    for item in items:
                        value = self._value({"secretKeyRef": {"name": name, "key": item["key"]}})
                        (folder / item["path"]).write_text(value)
                case _:
                    raise PodError(f"{self.name}: volume {volume} is not known here")
            folder.mkdir(parents=True, exist_ok=True)
            folders[volume["name"]] = folder
        containers = [*self.spec.get("initContainers", []), self.container]
        return {
            m["mountPath"]: folders[m["name"]] for each in containers for m in each.get("volumeMounts", [])
        }

    def _translate(self, text: str) -> str:
        for path, folder in self._mounts.items():
            text = re.sub(rf"(^|=){re.escape(path)}(?=/|$)", rf"\g<1>{folder}", text)
        for service, address in self.cluster.services.items():
            text = text.replace(service, address)
        return text


class _Probe:
    """The state of one probe; `tick` as often as you like."""

    def __init__(self, probe: dict[str, Any], ask: Callable[[dict[str, Any]], bool]) -> None:
        self._probe, self._ask = probe, ask
        self._next = time.monotonic() + probe.get("initialDelaySeconds", 0)
        self._failures = 0
        self.passed = False

    @property
    def failed(self) -> bool:
        return self._failures >= int(self._probe.get("failureThreshold", 3))

    def tick(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._probe.get("periodSeconds", 10)
        if self._ask(self._probe):
            self.passed, self._failures = True, 0
        else:
            self._failures += 1
