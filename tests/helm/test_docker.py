"""The images and the compose file: pinned, unprivileged, and set up by settings that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART
from tests.helm.test_render import KNOWN
from tests.helm.tools import ROOT
from tests.scripts import script

lock = script("lock")
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
TAGGED = re.compile(r":\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$")
"""A version, and a digest where `docker/digests.py` could read one."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_images_are_tagged_and_unprivileged(file: Any) -> None:
    text = file.read_text()
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", text, re.MULTILINE)
    assert TAGGED.search(base)
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    named = {name for _, name in stages}
    assert {source for source, _ in stages} - named == {"${PYTHON_IMAGE}"}
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    used = set(re.findall(r"DARKROOM_[A-Z_]+", text))
    assert used - KNOWN == set()


def test_the_images_and_the_chart_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    for name in ("api", "worker", "worker-cuda"):
        assert COMPOSE["services"][name]["image"].endswith(f":{chart['appVersion']}")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for service in ("rabbitmq", "redis"):
        image = values[service]["bundled"]["image"]
        assert TAGGED.search(image)
        assert image.endswith(COMPOSE["services"][service]["image"])


def test_the_version_is_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["appVersion"] == version


def test_compose_sets_what_exists() -> None:
    services = COMPOSE["services"]
    for name in ("api", "webhooks", "worker", "worker-cuda"):
        variables = {each for each in services[name]["environment"] if each.startswith("DARKROOM_")}
        assert variables - KNOWN == set()
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        if "build" not in services[name]:
            continue
        build = services[name]["build"]
        assert re.search(
            rf"^FROM \S+ AS {build['target']}$", (ROOT / build["dockerfile"]).read_text(), re.MULTILINE
        )
    mounted = {each.split(":")[0] for service in services.values() for each in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_workers_in_compose_may_finish_their_batches() -> None:
    for name in ("worker", "worker-cuda"):
        service = COMPOSE["services"][name]
        assert (
            int(service["stop_grace_period"].rstrip("s")) > service["environment"]["DARKROOM_DRAIN_TIMEOUT_S"]
        )


def test_the_api_image_gets_no_torch() -> None:
    api = lock.image("api")
    assert {"fastapi", "opentelemetry-sdk", "celery"} <= api.keys()
    assert not {"torch", "diffusers", "transformers", "numpy"} & api.keys()
    assert {"torch", "celery", "fastapi", "usearch"} <= lock.image("worker-cpu").keys()
    assert {"torch", "xformers"} <= lock.image("worker-cuda").keys()
