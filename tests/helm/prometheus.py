"""A real Prometheus on the running platform, with the chart's alerts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from cli.services import process
from tests.helm.chart import CHART


class Prometheus:
    """Scrapes `targets` (host, port) every half second while inside. Alerts wait for a second instead of minutes."""

    def __init__(self, folder: Path, targets: list[tuple[str, int]], port: int) -> None:
        self._folder, self._port = folder, port
        folder.mkdir(parents=True)
        rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
        (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
        addresses = [f"{host}:{number}" for host, number in targets]
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": "darkroom", "static_configs": [{"targets": addresses}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address=127.0.0.1:{self._port}"]
        self._process = process.launch(command, self._folder)
        process.wait_until(
            lambda: process.answers(self._port, b"GET /-/ready HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
            self._process,
            self._folder,
            30.0,
        )
        return self

    def __exit__(self, *_: object) -> None:
        process.end(self._process)

    def value(self, query: str) -> float | None:
        """The value of a query with one answer."""
        found = self._get("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alerts that fire now, by name."""
        alerts = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        answer = httpx.get(f"http://127.0.0.1:{self._port}/api/v1/{path}", params=query)
        data: dict[str, Any] = answer.json()["data"]
        return data
