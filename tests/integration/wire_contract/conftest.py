"""One platform for all tests of this folder.

There are three API processes. `cut_off` reaches no broker. `forgetful` keeps the records of ended
jobs for a second. Three workers serve `turbo` (few steps), `base` (many steps) and `fake` (fails when
told to).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest

from cli.services import process
from cli.services.rabbitmq import RabbitServer
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Stack
from tests.integration.wire_contract.site import BASE, FAKE, TURBO, Site


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, rabbit_server: RabbitServer) -> Iterator[Site]:
    environ = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_ALLOW_ANONYMOUS": "false",
        "DARKROOM_DEFAULT_MODEL": TURBO,
        "DARKROOM_HEARTBEAT_S": "0.5",
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32",
        "DARKROOM_WEBHOOK_RETRY_S": "0.2,0.2,0.2",
    }
    with ExitStack() as opened:
        folder = tmp_path_factory.mktemp("contract")
        admin = opened.enter_context(Stack.open(environ, folder, broker=rabbit_server, workers=0))
        ports = [str(process.free_port()) for _ in range(3)]
        for model, extra in (
            (TURBO, {}),
            (BASE, {"DARKROOM_METRICS_PORT": ports[0]}),
            (FAKE, {"DARKROOM_ENGINE": "fake"}),
        ):
            folder_or_name = model if model == FAKE else str(ROOT / "models" / model)
            admin.start("worker", model, DARKROOM_MODEL=folder_or_name, **extra)
        admin.start("webhooks", "webhooks")
        nowhere = f"amqp://guest:guest@127.0.0.1:{process.free_port()}//"
        admin.start("api", "cut_off", DARKROOM_PORT=ports[1], DARKROOM_BROKER_URL=nowhere)
        admin.start("api", "forgetful", DARKROOM_PORT=ports[2], DARKROOM_JOB_RETENTION_S="1")
        for model in (TURBO, BASE, FAKE):
            admin.wait_ready(1, model)
        made = Site(admin, admin, admin, admin.http, admin.http, f"http://127.0.0.1:{ports[0]}/metrics")
        alice, bob = made.key(tenant="alice"), made.key(tenant="bob")

        def client(url: str, headers: dict[str, str]) -> httpx.Client:
            return opened.enter_context(httpx.Client(base_url=url, headers=headers, timeout=90.0))

        for port in ports[1:]:
            until = time.monotonic() + 60
            while not process.answers(int(port)):
                assert time.monotonic() < until, admin.logs()
                time.sleep(0.1)
        yield replace(
            made,
            alice=replace(admin, http=client(admin.url, alice)),
            bob=replace(admin, http=client(admin.url, bob)),
            cut_off=client(f"http://127.0.0.1:{ports[1]}", alice),
            forgetful=client(f"http://127.0.0.1:{ports[2]}", alice),
        )
