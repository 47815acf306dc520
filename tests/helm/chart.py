"""Rendering the chart, and looking things up in what comes out."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.helm.tools import HELM, ROOT

CHART: Final = ROOT / "helm" / "darkroom"
RELEASE: Final = "rel"
COMBINATIONS: Final = (
    CHART / "values.yaml",
    CHART / "values-cpu.yaml",
    CHART / "values-production.yaml",
    *sorted((ROOT / "tests" / "helm" / "values").glob("*.yaml")),
)


class RenderError(Exception):
    """Helm refused; the message is Helm's."""


@dataclass(frozen=True)
class Rendered:
    """The objects of a release."""

    objects: tuple[dict[str, Any], ...]

    def every(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> dict[str, Any]:
        """The only object of the kind, or the only one whose name ends so."""
        found = [each for each in self.every(kind) if each["metadata"]["name"].endswith(ending)]
        assert len(found) == 1, (kind, ending, [each["metadata"]["name"] for each in self.every(kind)])
        return found[0]

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """The name of each workload and its pod's spec."""
        found = []
        for each in self.objects:
            match each["kind"]:
                case "Deployment" | "StatefulSet" | "Job":
                    found.append((each["metadata"]["name"], each["spec"]["template"]["spec"]))
                case "CronJob":
                    job = each["spec"]["jobTemplate"]["spec"]
                    found.append((each["metadata"]["name"], job["template"]["spec"]))
                case "Pod":
                    found.append((each["metadata"]["name"], each["spec"]))
        return found


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    """Variables of a pod's first container: the value, or what it is taken from."""
    return {
        each["name"]: each.get("value", each.get("valueFrom")) for each in pod["containers"][0].get("env", [])
    }


def render(
    values: dict[str, Any] | None = None, *files: Path, chart: Path = CHART, release: str = RELEASE
) -> Rendered:
    """The chart with the files, then the values, over its own. Raises `RenderError`."""
    command = [str(HELM), "template", release, str(chart), "--namespace", "ns"]
    for file in files:
        command += ["--values", str(file)]
    if values is not None:
        command += ["--values", "-"]
    done = subprocess.run(
        command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(done.stderr)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Rendered(tuple(each for each in yaml.load_all(done.stdout, Loader=loader) if each))


@cache
def combination(file: Path) -> Rendered:
    return render(None, file)
