"""A group of workers on one machine."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.integration.conftest import ROOT, Deploy


@pytest.mark.slow
def test_a_group_serves_is_kept_whole_and_drains(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=False, workers=0)
    command = [sys.executable, "-m", "cli.main", "worker", "--devices", "cpu:2"]
    with subprocess.Popen(command, env=stack.environ, cwd=ROOT) as group:
        try:
            stack.wait_ready(2)
            victim = psutil.Process(group.pid).children()[0]
            victim.kill()
            victim.wait(10)
            job = stack.submit(prompt="slow=1.0 somebody draws it")
            assert stack.ended(job)["status"] == "succeeded"
            stack.wait_ready(2)
        finally:
            group.send_signal(signal.SIGTERM)
        assert group.wait(40) == 0
