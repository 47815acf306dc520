#!/usr/bin/env bash
# Most people would guess: OpenAI's client waits as long as a 429 or 503 asks in Retry-After, or falls back to its own backoff.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
"$folder/venv/bin/python" - <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
import openai._base_client as base

asked = []
again = ""


class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        asked.append(1)
        self.send_response(429)
        self.send_header("Retry-After", again)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
waits = []
base.time.sleep = waits.append  # noted, not waited for
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=2)
found = {}
for again in ("61", "120", "121", "3600"):
    asked.clear(), waits.clear()
    try:
        client.images.generate(prompt="a red apple", model="any")
    except openai.RateLimitError:
        found[again] = (len(asked), list(waits))
print("openai", openai.__version__)
for seconds, (times, slept) in found.items():
    print(f"Retry-After: {seconds}: asked {times} times, waits {slept}")
expected = {"61": (3, [61.0] * 2), "120": (3, [120.0] * 2), "121": (1, []), "3600": (1, [])}
if found != expected:
    print("CHANGED: the bound is no longer 120 s, or longer waits are retried")
    sys.exit(1)
print("Up to 120 s it waits as asked. Above that it does not retry at all: the caller gets the error at once.")
PY
