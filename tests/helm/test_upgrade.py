"""An upgrade from the last released chart: nothing that Kubernetes forbids to change, and nothing that goes unannounced."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helm.chart import CHART, Rendered, render
from tests.helm.tools import ROOT

RELEASED: Final = ROOT / "tests" / "helm" / "released"
NOTES: Final = ROOT / "docs" / "operations.md"
# What may not change: https://kubernetes.io/docs/concepts/workloads/, by kind.
FIXED: Final[dict[str, tuple[str, ...]]] = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates"),
    "Service": ("clusterIP",),
    "PersistentVolumeClaim": ("accessModes", "storageClassName"),
    "Job": ("template", "backoffLimit"),
}
# Written for every version of the chart that lies in `released`, so they must use values that all of them know.
CASES: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "external": {
        "rabbitmq": {"url": "amqp://h//", "bundled": {"enabled": False}},
        "redis": {"existingSecret": {"name": "r"}, "bundled": {"enabled": False}},
    },
    "scaled": {
        "models": {"emoji-turbo": {"autoscaling": {"enabled": True}}},
        "keda": {"prometheusUrl": "http://p:9090"},
        "api": {"autoscaling": {"enabled": True}},
    },
    "downloaded": {
        "modelCache": {"enabled": True},
        "models": {"emoji-turbo": {"revision": "v1", "download": {"enabled": True}}},
    },
}


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the last release, unpacked."""
    folder = tmp_path_factory.mktemp("released")
    newest = max(RELEASED.glob("darkroom-*.tgz"), key=lambda path: version_of(path.stem))
    with tarfile.open(newest) as package:
        package.extractall(folder, filter="data")
    return folder / "darkroom"


def version_of(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    assert found is not None, text
    return tuple(int(each) for each in found.groups())


def by_name(rendered: Rendered) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in rendered.objects}


@pytest.mark.parametrize("case", CASES)
def test_an_upgrade_changes_nothing_that_may_not_change(last: Path, case: str) -> None:
    old, new = by_name(render(CASES[case], chart=last)), by_name(render(CASES[case]))
    for (kind, name), before in old.items():
        after = new.get((kind, name))
        if after is None:
            continue
        for field in FIXED.get(kind, ()):
            assert after["spec"].get(field) == before["spec"].get(field), f"{kind} {name}: {field}"


@pytest.mark.parametrize("case", CASES)
def test_what_an_upgrade_removes_is_announced(last: Path, case: str) -> None:
    old, new = by_name(render(CASES[case], chart=last)), by_name(render(CASES[case]))
    notes = NOTES.read_text()
    for kind, name in old.keys() - new.keys():
        # The Job of a model is named after what it fetches, by which image.
        assert kind == "Job" or f"{kind} `{name}`" in notes, (
            f"{kind} {name} vanishes, and {NOTES.name} is silent"
        )


def test_the_pods_keep_their_data(last: Path) -> None:
    def claims(rendered: Rendered) -> set[str]:
        made = {each["metadata"]["name"] for each in rendered.every("PersistentVolumeClaim")}
        for each in rendered.every("StatefulSet"):
            made |= {
                f"{t['metadata']['name']}-{each['metadata']['name']}-0"
                for t in each["spec"]["volumeClaimTemplates"]
            }
        return made

    assert claims(render({}, chart=last)) <= claims(render({}))
    for each in render().every("PersistentVolumeClaim"):
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_charts_version_has_moved_on(last: Path) -> None:
    def version(chart: Path) -> tuple[int, ...]:
        (found,) = re.findall(r"^version: (.+)$", (chart / "Chart.yaml").read_text(), re.MULTILINE)
        return version_of(found)

    assert version(CHART) > version(last)
