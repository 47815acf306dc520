"""One worker per device: which there are, and that they are started, kept running and drained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.devices import environments
from cli.services.process import ServiceError
from tests.integration.conftest import ROOT, Deploy


def test_devices_are_named_or_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments("cpu:2") == [{"DARKROOM_DEVICE": "cpu"}] * 2
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments("0,3")] == ["0", "3"]
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments("all")] == ["0", "1"]


@pytest.mark.parametrize("devices", ["", "gpu", "0,0", "cpu:0", "1,", "cpu:1000"])
def test_what_is_no_device_is_refused(devices: str) -> None:
    with pytest.raises(ServiceError, match="--devices"):
        environments(devices)


def test_all_finds_nothing_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServiceError, match="no GPU"):
        environments("all")


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
