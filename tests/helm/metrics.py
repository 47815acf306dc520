"""Which metrics the chart's dashboards and alerts ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from tests.helm.chart import CHART, combination

NAME: Final = re.compile(r"\bdarkroom_[a-z0-9_]+\b")
SUFFIX: Final = re.compile(r"_(?:bucket|sum|count)$")


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """The title of each panel, and a query of it."""
    for path in sorted((CHART / "files" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target["expr"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def scaling_queries() -> Iterator[str]:
    for file in (CHART / "values-production.yaml",):
        for each in combination(file).every("ScaledObject"):
            yield from (t["metadata"]["query"] for t in each["spec"]["triggers"] if t["type"] == "prometheus")


def metrics_used() -> set[str]:
    """Names of metrics, as their `# TYPE` lines give them."""
    queries = [query for _, query in dashboard_queries()]
    queries += [alert["expr"] for alert in alerts()]
    queries += scaling_queries()
    # A histogram's series are named after it.
    return {SUFFIX.sub("", name) for query in queries for name in NAME.findall(query)}
