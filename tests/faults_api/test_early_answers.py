"""Answers that are known before a body was read: they must reach clients that are still sending it, Node's fetch first of all."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright._impl._driver import compute_driver_executable

from api.early_answers import MAX_DISCARDED_BYTES
from tests.integration.conftest import Deploy, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TIMES = 10
SMALL, LARGE = 3, 3_000_000
KEY = "dk_" + "E" * 43


def fetched(stack: Stack, method: str, path: str, size: int, **how: Any) -> list[int | str]:
    """What Node's fetch gets for a body of `size` bytes, `TIMES` times. The Node is the one that Playwright brings."""
    node = compute_driver_executable()[0]
    asked = {
        "url": stack.url + path,
        "method": method,
        "headers": {},
        "bytes": size,
        "times": TIMES,
        "multipart": True,
        **how,
    }
    script = Path(__file__).with_name("fetch.mjs")
    told = subprocess.run(
        [node, script, json.dumps(asked)], capture_output=True, text=True, check=True, timeout=120
    )
    outcomes: list[int | str] = json.loads(told.stdout)
    return outcomes


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nothing", 404),
        ("POST", "/v1/images/edits", 404),
        ("PUT", "/v1/jobs", 405),
        ("POST", "/healthz", 405),
        ("POST", "/v1/images/generations", 415),
    ],
)
def test_an_early_refusal_reaches_a_client_that_is_still_sending(
    stack: Stack, method: str, path: str, status: int, size: int
) -> None:
    if status == 415 and size == LARGE:
        status = 413
    assert fetched(stack, method, path, size) == [status] * TIMES


def test_a_body_over_its_limit_is_refused_in_words(stack: Stack) -> None:
    headers = {"Content-Type": "application/json"}
    for size, status in ((100_000, 400), (LARGE, 413)):
        assert (
            fetched(stack, "POST", "/v1/jobs:batch", size, headers=headers, multipart=False)
            == [status] * TIMES
        )


def test_who_has_no_key_or_cannot_be_known_hears_so(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=False, DARKROOM_ADMIN_KEY=KEY, DARKROOM_ALLOW_ANONYMOUS="false")
    for path in ("/v1/jobs", "/v1/images/generations", "/v1/jobs:batch"):
        for size in (SMALL, LARGE):
            assert fetched(stack, "POST", path, size) == [401] * TIMES, (path, size)
    headers = {"Authorization": "Bearer dk_" + "F" * 43}
    stack.redis.stop()
    assert fetched(stack, "POST", "/v1/images/generations", LARGE, headers=headers) == [503] * TIMES


def answered(stack: Stack, head: bytes, body: bytes = b"") -> bytes:
    """All that the server says to `head` and `body` until it closes the connection or is done with its answer."""
    url = httpx.URL(stack.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as client:
        client.sendall(head)
        client.sendall(body)
        said = b""
        while b'"details": null}}' not in said and (more := client.recv(65_536)):
            said += more
        return said


def test_a_client_that_waits_to_be_told_to_go_on_is_answered_instead(stack: Stack) -> None:
    head = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    said = answered(stack, head).lower()
    assert said.startswith(b"http/1.1 404")
    assert b"connection: close" in said


def test_a_body_beyond_the_bounds_is_not_waited_for(stack: Stack) -> None:
    head = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (
        MAX_DISCARDED_BYTES + 1
    )
    said = answered(stack, head, b"x" * 10).lower()
    assert said.startswith(b"http/1.1 404")
    assert b"connection: close" in said


def test_a_connection_whose_body_was_thrown_away_serves_the_next_request(stack: Stack) -> None:
    head = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    url = httpx.URL(stack.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as client:
        client.sendall(head + b"x" * 100_000 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while b'{"status":"ok"}' not in said and (more := client.recv(65_536)):
            said += more
    assert said.startswith(b"HTTP/1.1 404")
    assert b"HTTP/1.1 200" in said


CHUNKED = (
    b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize("path", [b"/v1/jobs", b"/v1/jobs:batch", b"/v1/images/generations"])
@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(b"zz\r\n{}\r\n0\r\n\r\n", id="no size"),
        pytest.param(b"2\r\n{}!\r\n0\r\n\r\n", id="longer than it says"),
        pytest.param(b"fffffffffffffffff\r\n{}", id="a size beyond 64 bits"),
        pytest.param(b"-2\r\n{}\r\n0\r\n\r\n", id="less than nothing"),
    ],
)
def test_chunks_that_are_none_are_refused_in_our_words(stack: Stack, path: bytes, chunks: bytes) -> None:
    said = answered(stack, b"POST " + path + CHUNKED, chunks)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400"), said
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == "malformed_body"


def test_chunks_that_are_well_formed_are_a_body_as_any(stack: Stack) -> None:
    said = answered(stack, b"POST /v1/jobs" + CHUNKED, b"1\r\n{\r\n1;note=x\r\n]\r\n0\r\n\r\n")
    assert b"is not valid JSON" in said, said
