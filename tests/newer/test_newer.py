"""What is shipped is what is tested, and the newer runs ask for exactly that."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.services import process, rabbitmq
from cli.services.process import ServiceError
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import find_server
from tests.newer.__main__ import RUNS, TORCHLESS_SUITES, on_servers
from tests.newer.python import TORCH, image_version, without_torch
from tests.newer.suites import ROOT, NotProvided
from tests.newer.versions import SERVERS, is_version, told_version

VALUES: dict[str, Any] = yaml.safe_load((ROOT / "helm" / "darkroom" / "values.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
TESTED = {version for run in RUNS for version in run.versions}


def tag(image: str) -> str:
    """The version in an image's name: 4.3 of `rabbitmq:4.3-alpine`."""
    (found,) = re.findall(r":(\d+\.\d+)-alpine(?:@sha256:[0-9a-f]{64})?$", image)
    return str(found)


@pytest.mark.parametrize(("service", "name"), [("rabbitmq", "RabbitMQ"), ("redis", "Redis")])
def test_what_chart_and_compose_run_is_tested(service: str, name: str) -> None:
    versions = {tag(VALUES[service]["bundled"]["image"]), tag(COMPOSE["services"][service]["image"])}
    assert len(versions) == 1
    assert f"{name} {versions.pop()}" in TESTED


def test_the_broker_in_docker_is_the_one_that_is_shipped() -> None:
    assert tag(rabbitmq.IMAGE) == tag(VALUES["rabbitmq"]["bundled"]["image"])


def test_the_python_of_the_images_is_tested_and_announced() -> None:
    assert f"Python {image_version()}" in TESTED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {image_version()}" in project["classifiers"]


def test_every_version_is_in_a_run_and_in_the_document() -> None:
    assert set(SERVERS) <= TESTED
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Versions")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines()]
    told = {cells[1].split()[0]: cells[4] for cells in rows if len(cells) > 4 and cells[1].strip()}
    for version in TESTED:
        name, _, number = version.partition(" ")
        assert number in told[name]


def test_every_folder_of_tests_that_imports_no_torch_runs_on_the_images_python() -> None:
    # These start processes that need torch, or what `make` sets up.
    others = {
        "benchmarks",
        "cli",
        "faults",
        "helm",
        "integration",
        "models",
        "moderation",
        "newer",
        "storm",
        "worker",
    }
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - others == set(TORCHLESS_SUITES)
    for folder in TORCHLESS_SUITES:
        for path in (ROOT / "tests" / folder).glob("*.py"):
            assert not re.search(r"^\s*(?:import|from) torch\b", path.read_text(), re.MULTILINE), path


def test_the_environment_without_torch_has_all_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line)[0] for line in without_torch(project)}
    assert not names & TORCH
    assert {"fastapi", "celery", "pytest", "hypothesis", "boto3", "opentelemetry-sdk", "numpy"} <= names


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("4.3.6\n", "4.3.6"),
        ("Redis server v=8.0.6 sha=00000000:0 malloc=jemalloc-5.3.1 bits=64", "8.0.6"),
        ("Valkey server v=9.1.2 sha=00000000:0 malloc=jemalloc-5.3.1 bits=64", "9.1.2"),
    ],
)
def test_a_server_tells_its_version(output: str, version: str) -> None:
    assert told_version(output) == version


def test_a_version_is_not_another_that_begins_alike() -> None:
    assert is_version("4.3", "4.3.6")
    assert not is_version("4.3", "4.30.1")
    assert not is_version("4.0", "4.1.0")
    with pytest.raises(NotProvided, match="no version"):
        told_version("command not found")


def test_a_suite_that_went_on_to_another_version_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Never a skip, and never the other version."""
    from tests.newer import versions

    other = tmp_path / "server"
    other.write_text("#!/bin/sh\necho 'Redis server v=8.2.1 sha=0'\n")
    other.chmod(0o755)
    monkeypatch.setattr(versions, "CACHE", tmp_path)
    monkeypatch.setattr(versions, "provide", lambda suite: tmp_path)
    monkeypatch.setattr(versions, "inside", lambda root, *command: [str(other)])
    with pytest.raises(NotProvided, match=r"has Redis 8\.2\.1, and 8\.0 is asked for"):
        on_servers(("Redis 8.0",))


def test_servers_are_taken_from_the_folder_that_is_named_and_from_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(process.FOLDER_SETTING, str(tmp_path))
    for found in (find_server, RabbitServer(tmp_path / "rabbitmq").start):
        with pytest.raises(ServiceError, match=str(tmp_path)):
            found()
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_server() == str(program)


def test_the_script_that_enters_a_suite_is_a_script() -> None:
    subprocess.run(["sh", "-n", ROOT / "tests" / "newer" / "enter.sh"], check=True)
