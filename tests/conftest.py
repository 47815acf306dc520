"""Servers and settings that several suites share. A missing server is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from benchmarks.lib import natives
from benchmarks.lib.platform import served
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

__all__ = ["natives"]

ONE_PLATFORM = "tests/integration/wire_contract"
"""The files of this folder share a platform."""


class PlatformScheduling(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist loadfile`. The files that share a platform go to one process, one after the other: it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        return ONE_PLATFORM if nodeid.startswith(f"{ONE_PLATFORM}/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> PlatformScheduling | None:
    return PlatformScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis for the whole run; suites take what they need of its sixteen databases."""
    with served(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A real RabbitMQ for the whole run."""
    with served(RabbitServer(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server
