"""Pictures to start from, against a real API process: the memory of all that decodes, and clients that leave."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.integration.conftest import Deploy, Stack

pytestmark = pytest.mark.slow
MIB = 1 << 20
AT_ONCE = 8


def encoded(picture: Image.Image, **how: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return base64.b64encode(file.getvalue()).decode()


def api_processes(stack: Stack) -> list[psutil.Process]:
    """The API's process, and those that it has started."""
    api = psutil.Process(stack.processes["api"].pid)
    return [api, *api.children(recursive=True)]


def peaks_mib(stack: Stack) -> list[float]:
    """The most memory that each of them ever had."""
    found = []
    for each in api_processes(stack):
        lines = Path(f"/proc/{each.pid}/status").read_text().splitlines()
        found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return found


def until(true: Callable[[], bool], stack: Stack, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.02)


def test_pictures_of_sixteen_megapixels_fit_in_a_pod_one_alone_and_eight_at_once(deploy: Deploy) -> None:
    # Busy machines are slow: how long it takes is not what is asked here.
    stack = deploy(rabbitmq=False, DARKROOM_INIT_IMAGE_TIMEOUT_S="60", DARKROOM_INIT_IMAGE_WAIT_S="100")
    text = encoded(Image.new("RGBA", (4096, 4096), (200, 100, 50, 128)))
    assert len(text) < 120_000
    idle = sum(peaks_mib(stack))
    stack.submit(prompt="one", init_image=text, num_inference_steps=2)
    alone = sum(peaks_mib(stack))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(
            threads.map(
                lambda n: stack.submit(prompt=f"number {n}", init_image=text, num_inference_steps=2),
                range(AT_ONCE),
            )
        )
    together = sum(peaks_mib(stack))
    print(f"MiB of the API and all its processes: idle {idle:.0f}, one {alone:.0f}, eight {together:.0f}")
    assert alone < 280
    assert together < 400


def test_what_a_client_has_left_is_not_decoded(deploy: Deploy) -> None:
    stack = deploy(
        rabbitmq=False,
        workers=1,
        DARKROOM_INIT_IMAGE_TIMEOUT_S="100",
        DARKROOM_INIT_IMAGE_WAIT_S="100",
    )
    plain = Image.new("RGB", (64, 64), (200, 100, 50))
    text = encoded(plain)
    odd = encoded(plain, icc_profile=b"no profile at all")
    job = stack.ended(stack.submit(prompt="first", init_image=odd, num_inference_steps=2))
    assert job["status"] == "succeeded"
    assert "colour profile" in job["warnings"][0], "said from the submit to the end"
    # Waiting for the job, behind the decoding, works as ever: the client is watched twice.
    waited = stack.http.post(
        "/v1/jobs",
        json={"prompt": "second", "init_image": text, "num_inference_steps": 2},
        headers={"Prefer": "wait=30"},
    )
    assert (waited.status_code, waited.json()["status"]) == (200, "succeeded")

    for key in ("", "Idempotency-Key: left\r\n"):
        _leave(stack, text, key)
        stack.submit(prompt="next", init_image=text, num_inference_steps=2)


def _leave(stack: Stack, text: str, header: str) -> None:
    """Send a picture to a decoder that is held up, and hang up: the decoder is gone, at once."""
    (decoder,) = api_processes(stack)[1:]
    os.kill(decoder.pid, signal.SIGSTOP)  # it never comes to an end
    until(lambda: decoder.status() == psutil.STATUS_STOPPED, stack)  # before that it may still read
    body = json.dumps({"prompt": "left", "init_image": text, "num_inference_steps": 2}).encode()
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    host, _, port = stack.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        until(lambda: _asked(decoder), stack)
    until(lambda: not decoder.is_running(), stack)


def _asked(decoder: psutil.Process) -> bool:
    """Whether there is something to read for it."""
    with open(f"/proc/{decoder.pid}/fd/0", "rb", buffering=0) as pipe:
        return bool(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
