"""Pictures of a folder: how fast they come into the search, and whether a kill loses or repeats one.

    python -m benchmarks.crawl --json out.json --html out.html
    python -m benchmarks.crawl --pictures 500

`--pictures` small pictures (50,000 by default) with captions are written into a temporary folder. `darkroom search add` brings them to a platform
with a search, by `emoji-clip` and the embedded index. It gets SIGKILL when the server has half of them, and is started again.

`added_per_s` are the pictures a second of the first run, as the API counts them: read, sent, decoded, written anew, stored, recorded. The search
process embeds them at the same time. `resumed_known_per_s` are those of the second run that the server has already: hashed and asked for.
`indexed_per_s` counts from the start of the first run until the index has all pictures. `repeated` are pictures that were added more than
once, `missing` those that no search finds, `found_twice` those that are found more than once, each page of GET /v1/search read to the end.
All three are to be 0.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks import report
from benchmarks.arguments import count
from benchmarks.lib.platform import FAKE, Platform
from cli.services import process
from contracts.tenancy import new_token

SIDE, PATCHES = 64, 4
LOOK_S = 0.05
PATIENCE_S = 600.0
"""The longest time without any progress."""


def written(folder: Path, pictures: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(pictures):
        patches = rng.integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
        place = folder / f"{number // 1000:03}"
        place.mkdir(exist_ok=True)
        Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(
            place / f"{number:06}.png"
        )
        (place / f"{number:06}.txt").write_text(f"patches, number {number}")


def added(http: httpx.Client) -> int:
    head = 'darkroom_search_imports_total{outcome="added"} '
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(head)]
    return int(float(lines[0].removeprefix(head)))


def indexed(http: httpx.Client) -> int:
    answer = http.get("/v1/admin/search")
    return int(answer.json()["images"]) if answer.status_code == 200 else 0


def wait(reached: Any, platform: Platform, wanted: int) -> None:
    """Until `reached` answers `wanted` or more. Raises `RuntimeError` if it stands still."""
    best, until = -1, time.monotonic() + PATIENCE_S
    while (now := reached()) < wanted:
        if now > best:
            best, until = now, time.monotonic() + PATIENCE_S
        if time.monotonic() > until:
            raise RuntimeError(f"{now} of {wanted}\n{platform.logs()}")
        time.sleep(LOOK_S)


def origins(http: httpx.Client) -> Counter[str]:
    """Where the pictures come from that a search finds."""
    found, query = Counter[str](), {"source": "imported", "limit": "100"}
    while True:
        page = http.get("/v1/search", params=query).raise_for_status().json()
        found.update(hit["origin"] for hit in page["data"])
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def measured(platform: Platform, folder: Path, pictures: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "search",
        "add",
        str(folder),
        "--json",
        "--server",
        platform.url,
    ]
    environ = {**platform.environ, "DARKROOM_API_KEY": platform.environ["DARKROOM_ADMIN_KEY"]}
    wait(lambda: platform.http.get("/v1/search").status_code == 200, platform, 1)
    begun = time.monotonic()
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as first:
        wait(lambda: added(platform.http), platform, pictures // 2)
        first.send_signal(signal.SIGKILL)
    half_s, before = time.monotonic() - begun, added(platform.http)
    again = time.monotonic()
    second = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    summary, resumed_s = json.loads(second.stdout), time.monotonic() - again
    wait(lambda: indexed(platform.http), platform, pictures)
    indexed_s = time.monotonic() - begun
    found, rate = origins(platform.http), before / half_s
    return {
        "pictures": pictures,
        "added_before_kill": before,
        "known_at_resume": summary["known"],
        "added_per_s": rate,
        "resumed_known_per_s": summary["known"] / max(1e-9, resumed_s - summary["added"] / rate),
        "indexed_per_s": pictures / indexed_s,
        "repeated": added(platform.http) - pictures,
        "missing": pictures - len(found),
        "found_twice": sum(times > 1 for times in found.values()),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--pictures", type=count, help="how many")
    args = parser.parse_args()
    pictures = args.pictures or (300 if args.quick else 50_000)
    port = str(process.free_port())
    with tempfile.TemporaryDirectory(prefix="crawl-") as name:
        folder = Path(name) / "pictures"
        folder.mkdir()
        written(folder, pictures)
        environ = {"DARKROOM_CLIP": str(report.ROOT / "models" / "emoji-clip"), "DARKROOM_SEARCH_PORT": port}
        environ |= {"DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}", "DARKROOM_ADMIN_KEY": new_token()}
        environ |= {"DARKROOM_SEARCH_INDEX": f"embedded:{name}/index"}
        with Platform.open({**FAKE, **environ}, Path(name), broker=False) as platform:
            platform.start("search", "search")
            figures = measured(platform, folder, pictures)
    report.publish(args, "crawl", {"side": SIDE, "clip": "emoji-clip", "index": "embedded"}, figures, {})


if __name__ == "__main__":
    main()
