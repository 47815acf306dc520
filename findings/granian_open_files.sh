#!/usr/bin/env bash
# Guess: importing a web server's Python package changes nothing of the process. Granian's raises the soft limit of open files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check granian==2.8.7
(
    ulimit -Sn 256
    "$folder/venv/bin/python" - <<'PY'
import resource
from importlib.metadata import version

before = resource.getrlimit(resource.RLIMIT_NOFILE)
import granian  # noqa: E402, F401

after = resource.getrlimit(resource.RLIMIT_NOFILE)
print(f"granian {version('granian')}: open files (soft, hard) {before} before the import, {after} after it")
if not (before[0] == 256 < after[0] == after[1]):
    raise SystemExit("CHANGED: the import leaves the limit alone")
print("What starts later inherits it. A limit that an operator set low with `ulimit -Sn` does not hold; `ulimit -Hn` does.")
PY
)
