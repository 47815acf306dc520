"""Dashboards, alerts, runbooks and metrics speak of the same things, and Prometheus understands them."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import prometheus_client
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.plan.autoscaler import Autoscaler, Rule
from telemetry import metrics
from tests.helm.chart import CHART, combination
from tests.helm.metrics import alerts, dashboard_queries, metrics_used
from tests.helm.tools import ROOT

RUNBOOKS = ROOT / "docs" / "runbooks"
CASES = ROOT / "tests" / "helm" / "alerts.test.yaml"


def defined() -> dict[str, MetricWrapperBase]:
    """Every metric by the name that Prometheus sees: counters end in `_total`."""
    found = {}
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            suffix = "_total" if isinstance(each, prometheus_client.Counter) else ""
            found[each._name + suffix] = each
    return found


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dashboards_alerts_and_scaling_use_metrics_that_exist() -> None:
    assert len(metrics_used()) > 20
    assert metrics_used() - set(defined()) == set()


def test_every_metric_is_on_a_dashboard() -> None:
    queries = " ".join(query for _, query in dashboard_queries())
    unseen = {name for name in defined() if name.removesuffix("_info") not in queries}
    assert unseen == set()


def test_metrics_are_named_by_convention() -> None:
    for name, metric in defined().items():
        assert re.fullmatch(r"darkroom_[a-z]+(_[a-z]+)*", name)
        if isinstance(metric, prometheus_client.Histogram):
            assert name.endswith(("_seconds", "_bytes", "_images")), name
        # Only those that `telemetry.tenants` bounds name tenants.
        tenant: set[str] = set() if name.startswith("darkroom_tenant_") else {"tenant"}
        assert not {"job", "job_id", "prompt", "key", "instance", *tenant} & set(metric._labelnames), name
        assert metric._documentation.endswith((".", "s")), name


@pytest.mark.parametrize(
    "label", ["model", "code", "status", "cache", "outcome", "cause", "step", "attempt", "service"]
)
def test_labels_in_queries_are_labels_of_the_metrics(label: str) -> None:
    known = defined()
    for query in [*(query for _, query in dashboard_queries()), *(alert["expr"] for alert in alerts())]:
        for name, inside in re.findall(r"(darkroom_[a-z_]+)\{([^}]*)\}", query):
            if re.search(rf"\b{label}[=!]", inside):
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                assert label in known[base]._labelnames, query


def test_prometheus_understands_the_alerts_and_they_fire_under_their_faults(tmp_path: Path) -> None:
    promtool("check", "rules", CHART / "files" / "alerts.yaml")
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # words for people, which promtool would compare to the letter
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    promtool("test", "rules", shutil.copy(CASES, tmp_path))


@pytest.mark.parametrize(
    ("workers", "asked_per_s", "waiting", "wait_s"),
    [
        (1, 0, 0, 0.1),  # idle: what is left of the wait is the next image's own time
        (1, 45, 300, 15.0),
        (3, 45, 0, 0.1),
        (3, 60, 600, 10.0),
        (5, 5, 0, 0.1),
    ],
)
def test_the_chart_scales_by_the_rule_that_the_plan_simulates(
    tmp_path: Path, workers: int, asked_per_s: int, waiting: int, wait_s: float
) -> None:
    """The query as it is rendered, asked of Prometheus, is the load and the backlog that the plan's autoscaler is told."""
    scaler = combination(CHART.parents[1] / "tests" / "helm" / "values" / "keda.yaml").one("ScaledObject")
    wanted = scaler["spec"]["triggers"][1]["metadata"]
    labels = '{namespace="ns",model="emoji-turbo"}'
    each_per_s, drain_s = 20, 30.0
    series = {
        "live_workers": f"{workers}x20",
        "model_steps_per_second": f"{workers * each_per_s}x20",
        "predicted_wait_seconds": f"{wait_s}x20",
        "jobs_waiting": f"{waiting}x20",
        "steps_submitted_total": f"0+{asked_per_s * 15}x20",
    }
    load = asked_per_s / each_per_s
    backlog_s = workers * wait_s if waiting else 0.0
    total = load + backlog_s / drain_s
    case = {
        "interval": "15s",
        "input_series": [{"series": f"darkroom_{name}{labels}", "values": v} for name, v in series.items()],
        "promql_expr_test": [
            {
                "expr": f"abs({wanted['query']} - {total}) < bool 1e-6",
                "eval_time": "4m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    path = tmp_path / "scaling.test.yaml"
    path.write_text(yaml.safe_dump({"tests": [case]}))
    promtool("test", "rules", path)
    utilisation = float(wanted["threshold"])
    rule = Rule(utilisation=utilisation, drain_s=drain_s, most=100, down_window_s=0.0)
    asked = max(
        1, math.ceil(total / utilisation - 1e-9)
    )  # what the HorizontalPodAutoscaler makes of an average value
    assert Autoscaler(rule).desired(0.0, workers, load, backlog_s) == asked


def test_nothing_is_asked_for_while_no_rate_is_known(tmp_path: Path) -> None:
    """No worker, or one that has run nothing yet: no answer rather than infinitely many, and the queue decides."""
    scaler = combination(CHART.parents[1] / "tests" / "helm" / "values" / "keda.yaml").one("ScaledObject")
    wanted = scaler["spec"]["triggers"][1]["metadata"]
    labels = '{namespace="ns",model="emoji-turbo"}'
    series = {"live_workers": "1x20", "model_steps_per_second": "0x20", "steps_submitted_total": "0+9x20"}
    case = {
        "interval": "15s",
        "input_series": [{"series": f"darkroom_{name}{labels}", "values": v} for name, v in series.items()],
        "promql_expr_test": [{"expr": wanted["query"], "eval_time": "4m", "exp_samples": []}],
    }
    path = tmp_path / "scaling.test.yaml"
    path.write_text(yaml.safe_dump({"tests": [case]}))
    promtool("test", "rules", path)
    assert wanted["ignoreNullValues"] == "true"


def test_every_alert_is_tested_firing_and_silent_and_from_nothing() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    checked = [each for case in cases for each in case["alert_rule_test"]]
    begun = [
        case for case in cases if all(each["values"].startswith("_x2 ") for each in case["input_series"])
    ]
    first = {each["alertname"] for case in begun for each in case["alert_rule_test"] if each["exp_alerts"]}
    assert first == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        about = [each for each in checked if each["alertname"] == alert["alert"]]
        assert [each for each in about if each["exp_alerts"]], alert["alert"]
        assert [each for each in about if not each["exp_alerts"]], alert["alert"]


def test_prometheus_understands_the_dashboards(tmp_path: Path) -> None:
    queries = [
        query.replace("$__rate_interval", "5m").replace("$model", ".*") for _, query in dashboard_queries()
    ]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_dashboards_are_whole() -> None:
    boards = [json.loads(path.read_text()) for path in (CHART / "files" / "dashboards").glob("*.json")]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        variables = {each["name"] for each in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(board["panels"])))
        assert used - variables <= {"__rate_interval"}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    names = {alert["alert"] for alert in alerts()}
    assert {path.stem for path in RUNBOOKS.glob("Darkroom*.md")} == names
    for name in names:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        for part in ("## What it means", "## Look", "## Do"):
            assert part in text, (name, part)
        for metric in re.findall(r"darkroom_[a-z_]+", text):
            base = re.sub(r"_(bucket|sum|count)$", "", metric)
            assert base in defined(), (name, metric)


def test_alerts_say_what_and_how_bad() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description"}
