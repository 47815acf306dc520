#!/usr/bin/env bash
# Most people would guess: httpx's iter_lines() gives the lines of a text/event-stream. It also splits at U+2028, U+2029, U+0085 and others,
# which JSON may hold as they are, so an event whose prompt has one arrives in pieces. The standard knows CR and LF alone; httpx-sse too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3 pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
import json
from importlib.metadata import version

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel


class Job(BaseModel):
    status: str
    prompt: str


print(f"httpx {version('httpx')}, httpx-sse {version('httpx-sse')}, pydantic {version('pydantic')}")
split = []
for mark in ("\u2028", "\u2029", "\x85", "\u00a0"):
    data = Job(status="succeeded", prompt=f"a red{mark}apple").model_dump_json()
    stream = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=f"data: {data}\n\n".encode())
    lines = [line for line in stream.iter_lines() if line]
    (event,) = EventSource(stream).iter_sse()
    assert json.loads(event.data)["prompt"] == f"a red{mark}apple"
    print(f"prompt with U+{ord(mark):04X}: {len(lines)} line(s) by iter_lines {lines}, 1 event by httpx-sse")
    if len(lines) > 1:
        split.append(mark)
if split != ["\u2028", "\u2029", "\x85"]:
    raise SystemExit("CHANGED: iter_lines splits elsewhere now")
PY
