"""Servers and settings that several suites share. A missing server is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis for the whole run; suites take what they need of its sixteen databases."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A real RabbitMQ for the whole run."""
    server = RabbitServer(Path(tmp_path_factory.mktemp("rabbitmq")))
    server.start()
    yield server
    server.stop()
