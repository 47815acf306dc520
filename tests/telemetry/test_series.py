"""What alerts ask for exists from the start of each process, at zero, and the code counts under no other names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from telemetry import metrics, series

ROOT: Final = Path(__file__).parents[2]
ALERTS: Final = ROOT / "helm" / "darkroom" / "files" / "alerts.yaml"
OWNERS: Final = {
    "api": ("api", "broker", "cache"),
    "worker": ("worker", "store/ending.py"),
    "search": ("search",),
    "second_look": ("second_look",),
    "webhooks": ("webhooks",),
}
"""Rooms and modules by the process that they run in; what is shared is begun by both."""
ENDS: Final = ROOT / "cache" / "ending.py"
"""Jobs are ended by workers alone."""
UNKNOWN: Final = ("darkroom_jobs_submitted_total", "")
"""Of models, which an API process does not know at its start. An alert only compares with it, and does without."""
LISTED: Final = {
    "BLOB_STORE_ERRORS": series.BLOB_STORE_CAUSES,
    "EMBEDDINGS": series.EMBEDDING_OUTCOMES,
    "DEAD_LETTERS": series.DEAD_LETTER_OUTCOMES,
    "ENGINE_RESTARTS": series.RESTART_CAUSES,
    "PROMPTS_JUDGED": series.PROMPT_STATES,
    "PUBLISHES": series.PUBLISH_OUTCOMES,
    "QUOTA_REFUSED": series.LIMITS,
    "RELAYED": series.RELAY_REASONS,
    "SECOND_LOOKS": series.SECOND_LOOK_OUTCOMES,
    "SEARCH_INDEXED": series.SEARCH_OUTCOMES,
    "SEARCH_IMPORTS": series.IMPORT_OUTCOMES,
    "BATCHES": series.BATCH_OUTCOMES,
}
BEGIN: Final = """
from prometheus_client import generate_latest
from telemetry import series
series.begin_api([("POST", "/v1/jobs")])
series.begin_worker("m", 3)
series.begin_webhooks()
series.begin_search()
series.begin_second_look()
print(generate_latest().decode())
"""


def selectors() -> Iterator[tuple[str, str]]:
    """Every counter that an alert asks for, and what it asks of its labels."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield from re.findall(r"(darkroom_\w+_total)(?:\{([^}]*)\})?", rule["expr"])


@pytest.fixture(scope="module")
def begun() -> dict[str, list[dict[str, str]]]:
    """The labels of all series of a fresh process, by name."""
    told = subprocess.run([sys.executable, "-c", BEGIN], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(told.stdout):
        for sample in family.samples:
            assert sample.value == 0 or not re.fullmatch(r"darkroom_\w+_total", sample.name), sample
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize(("name", "asked"), sorted(set(selectors()) - {UNKNOWN}), ids=" ".join)
def test_an_alert_finds_its_series_before_anything_has_happened(
    begun: dict[str, list[dict[str, str]]], name: str, asked: str
) -> None:
    wanted = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', asked)

    def matches(labels: dict[str, str]) -> bool:
        return all(
            (re.fullmatch(value, labels[label]) is not None)
            if sign == "=~"
            else (labels[label] == value) == (sign == "=")
            for label, sign, value in wanted
        )

    assert [labels for labels in begun.get(name, []) if matches(labels)]
    for label, sign, value in wanted:
        for each in value.split("|") if sign != "!=" and "." not in value else ():
            assert any(labels[label] == each for labels in begun[name]), each


def modules(place: str) -> Iterator[Path]:
    """Those of a room, or the one that is named."""
    yield from [ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py")


def literals() -> Iterator[tuple[str, str, str]]:
    """Process, counter and last label of every place that counts under a name that is written there."""
    for process, rooms in OWNERS.items():
        for path in (path for room in rooms for path in modules(room) if process == "worker" or path != ENDS):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "labels"
                ):
                    continue
                counter, last = ast.unparse(node.func.value).rpartition(".")[2], node.args[-1]
                if isinstance(last, ast.Constant):
                    yield process, counter, str(last.value)


def test_the_code_counts_under_no_other_names() -> None:
    found = set(literals())
    assert ("worker", "REPAIRED", "store") in found
    for process, counter, value in found:
        if counter == "REPAIRED":
            assert value in series.REPAIRED_STEPS[process], (process, value)
        elif counter in LISTED:
            assert value in LISTED[counter], (counter, value)


def test_names_that_are_decided_elsewhere_are_all_listed() -> None:
    from api import store_quota
    from contracts.errors import BrokerUnavailable, QueueFull
    from contracts.tenancy import Limits
    from contracts.webhooks import DeliveryStatus
    from scheduler.recovery import Failure

    assert {"done", *Failure} <= set(series.BATCH_OUTCOMES)
    assert {BrokerUnavailable.code, QueueFull.code} <= set(series.PUBLISH_OUTCOMES)
    ended = {status.value for status in DeliveryStatus if status is not DeliveryStatus.PENDING}
    assert ended | {"retry"} <= set(series.WEBHOOK_OUTCOMES)
    assert set(series.LIMITS) <= {*Limits.model_fields, store_quota.LIMIT}
    assert metrics.REPAIRED._labelnames == ("step",)
