"""Fault 35: whatever is sent, no 5xx. Schemathesis holds the server to its own description; a fuzzer of bodies to none."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cli.services import process
from contracts.tenancy import new_token
from tests.faults_api.conftest import FULL, figures
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if FULL else 180)]

EXAMPLES: Final = 200 if FULL else 5
SECONDS: Final = 1200 if FULL else 50
BODIES: Final = 100_000 if FULL else 2_000
SEED: Final = 1
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")

FIELDS = [
    *(
        "prompt",
        "negative_prompt",
        "model",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "seed",
    ),
    *("lora", "init_image", "strength", "previews", "output_format", "cache"),
    *("num_images", "webhook", "priority", "timeout_seconds", "", "prompt\u0000", "__proto__", "é" * 200),
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**9, -(10**9), 2**53, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *("", " ", "a", "random", "\u0000", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "x" * 3000, "é" * 2000),
    *(
        "<script>",
        "{{7*7}}",
        "'; --",
        "../../etc/passwd",
        "https://127.0.0.1/",
        "https://\ud800/",
        "2",
        "NaN",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"url": 1},
        {"url": "https://a.example/", "events": []},
        {"url": []},
        {"events": 1},
    ),
]
RAW = [
    *(
        b"",
        b" ",
        b"{",
        b"}",
        b"[",
        b"nul",
        b"NaN",
        b"-Infinity",
        b'{"prompt": NaN}',
        b'{"a":1,"a":2}',
        b"\x00",
    ),
    *(b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"prompt": "\xff"}', b'{"prompt": "a"}x', b"[" * 30_000),
    *(b'{"a":' * 8_000, b'{"seed": ' + b"9" * 5_000 + b"}", b'{"width": 1e999}', b'{"prompt": "\\ud800"}'),
    *(b"--boundary\r\n", b"prompt=a&width=1", b'"' + b"\\" * 20_000, b"1" * 60_000),
]
TYPES = ["application/json"] * 8 + ["application/json; charset=utf-8", "text/plain", "", "application/xml"]


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth < 3 and kind < 0.1:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3 and kind < 0.2:
        return {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind < 0.3:
        return rng.randint(-(10**10), 10**10)
    if kind < 0.4:
        return "".join(chr(rng.randrange(0x11_0000)) for _ in range(rng.randrange(30)))
    return rng.choice(ODD)


def body(rng: random.Random) -> bytes:
    """One body: a request with odd values in it, or bytes that are none."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    fields = {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(5))}
    if rng.random() < 0.7:
        fields["prompt"] = rng.choice(["a", "b", "c"])
    data = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(4)) + data[at + 1 :]
    return data


def test_fault_35_fuzzed_bodies(stack: Stack) -> None:
    rng = random.Random(SEED)
    statuses: Counter[int] = Counter()
    shapeless: list[bytes] = []

    async def send_all() -> None:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=stack.url, limits=limits, timeout=60) as http:

            async def sender() -> None:
                while statuses.total() < BODIES:
                    data = body(rng)
                    headers = {"Content-Type": rng.choice(TYPES)}
                    response = await http.post("/v1/jobs", content=data, headers=headers)
                    statuses[response.status_code] += 1
                    if response.status_code >= 400 and "error" not in response.json():
                        shapeless.append(data)

            await asyncio.gather(*(sender() for _ in range(16)))

    begun = time.monotonic()
    asyncio.run(send_all())
    took_s = time.monotonic() - begun
    figures(
        35,
        bodies=statuses.total(),
        statuses=dict(sorted(statuses.items())),
        bodies_per_s=round(statuses.total() / took_s),
    )
    assert shapeless == []
    assert set(statuses) <= {200, 202, 400, 404, 413, 415, 422, 429}, statuses
    assert stack.http.get("/readyz").status_code == 200


def test_fault_35_schemathesis(stack: Stack, tmp_path: Path) -> None:
    """All its checks, in all its phases, against a server that asks for keys."""
    key, port = new_token(), process.free_port()
    url = f"http://127.0.0.1:{port}"
    stack.start(
        "api",
        "api-keys",
        DARKROOM_PORT=str(port),
        DARKROOM_ADMIN_KEY=key,
        DARKROOM_ALLOW_ANONYMOUS="false",
    )
    process.wait_until(
        lambda: process.answers(port, b"GET /readyz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
        stack.processes["api-keys"],
        stack.folder / "api-keys",
        60.0,
    )
    command = [
        *(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(CONFIG),
            "run",
            f"{url}/openapi.json",
        ),
        *("--header", f"Authorization: Bearer {key}"),
        *(
            "--checks",
            "all",
            "--max-examples",
            str(EXAMPLES),
            "--max-time",
            str(SECONDS),
            "--seed",
            str(SEED),
        ),
        *("--no-color", "--continue-on-failure", "--generation-database", "none"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = done.stdout
    assert done.returncode == 0, report[report.find("= FAILURES") :][:8000] + done.stderr[-2000:]
    operations = re.search(r"Tested: (\d+)", report)
    generated = re.search(r"(\d+) generated", report)
    assert operations is not None, report
    assert generated is not None, report
    assert int(operations[1]) >= 12
    figures(35, operations=int(operations[1]), cases=int(generated[1]), failures=0)
