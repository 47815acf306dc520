"""One worker per device: which there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.devices import environments
from cli.services.process import ServiceError


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
