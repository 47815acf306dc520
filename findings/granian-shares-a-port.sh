#!/bin/bash
# Most people would guess: a second Granian on a port that is in use ends with "address already in use". On Linux it starts, and
# the kernel shares the connections out between two applications that know nothing of each other (SO_REUSEPORT, socket(7)).
set -euo pipefail
folder=$(mktemp -d)
first='' second=''
trap 'kill $first $second 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check granian==2.8.7
for name in one two; do
  cat > "$folder/$name.py" <<APP
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"$name"})
APP
done
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$folder"
serve() { exec "$folder/venv/bin/granian" --interface asgi --host 127.0.0.1 --port "$port" --no-log "$1:app"; }
serve one & first=$!
serve two & second=$!
"$folder/venv/bin/granian" --version
python3 - "$port" <<'ASK'
import sys, time, urllib.request
seen, until = set(), time.monotonic() + 30
while len(seen) < 2 and time.monotonic() < until:
    try:
        seen.add(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/", timeout=2).read().decode())
    except OSError:
        time.sleep(0.1)
print("answers on one port:", sorted(seen))
if seen != {"one", "two"}:
    sys.exit("CHANGED: one port was not shared by two servers")
ASK
