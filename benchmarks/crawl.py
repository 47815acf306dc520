"""Pictures of a folder: how fast they come into the search, and whether a kill loses or repeats one.

    python -m benchmarks.crawl --json out.json --html out.html
    python -m benchmarks.crawl --pictures 500

50,000 small pictures with captions are written into a folder. `darkroom search add` brings them to a platform with a search, by
`emoji-clip` and the embedded index. It gets SIGKILL when the server has half of them, and is started again.

`added_per_s`: pictures a second of the first run: read, sent, decoded, written anew, stored, recorded, while the search process embeds.
`resumed_known_per_s`: pictures a second of the second run that the server has already. `indexed_per_s`: from the start until the
index has all. `repeated` were added more than once, `missing` are found by no search, `found_twice` more than once, each page of
GET /v1/search read to the end. All three are to be 0.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks import report
from benchmarks.arguments import count
from benchmarks.lib.platform import FAKE, Platform
from cli.services import process
from contracts.tenancy import new_token

SIDE, PATCHES = 64, 4
ADDED = 'darkroom_search_imports_total{outcome="added"} '
LOOK_S, PATIENCE_S = 0.05, 4 * 3600.0


def written(folder: Path, pictures: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(pictures):
        path = folder / f"{number // 1000:03}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        patches = Image.fromarray(rng.integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8))
        patches.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)
        path.with_suffix(".txt").write_text(f"patches, number {number}")


def added(http: httpx.Client) -> int:
    return int(float(http.get("/metrics").text.partition(ADDED)[2].partition("\n")[0]))


def wait(reached: Callable[[], bool], platform: Platform) -> None:
    until = time.monotonic() + PATIENCE_S
    while not reached():
        if time.monotonic() > until:
            raise RuntimeError(platform.logs())
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
    http = platform.http
    command = [sys.executable, "-m", "cli.main", "search", "add", str(folder), "--json"]
    caller = {"DARKROOM_SERVER": platform.url, "DARKROOM_API_KEY": platform.environ["DARKROOM_ADMIN_KEY"]}
    environ = {**platform.environ, **caller}
    wait(lambda: http.get("/v1/search").status_code == 200, platform)
    begun = time.monotonic()
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as first:
        wait(lambda: added(http) >= pictures // 2, platform)
        first.send_signal(signal.SIGKILL)
    half_s, before, again = time.monotonic() - begun, added(http), time.monotonic()
    summary = json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout)
    resumed_s = time.monotonic() - again - summary["added"] * half_s / before
    wait(lambda: http.get("/v1/admin/search").json().get("images", 0) >= pictures, platform)
    indexed_s, found = time.monotonic() - begun, origins(http)
    return {
        "added_before_kill": before,
        "added_per_s": before / half_s,
        "resumed_known_per_s": summary["known"] / max(resumed_s, LOOK_S),
        "indexed_per_s": pictures / indexed_s,
        "repeated": added(http) - pictures,
        "missing": pictures - len(found),
        "found_twice": sum(times > 1 for times in found.values()),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--pictures", type=count, help="how many")
    args = parser.parse_args()
    pictures, port = args.pictures or (300 if args.quick else 50_000), str(process.free_port())
    with tempfile.TemporaryDirectory(prefix="crawl-") as name:
        written(Path(name) / "pictures", pictures)
        environ = {"DARKROOM_CLIP": str(report.ROOT / "models" / "emoji-clip"), "DARKROOM_SEARCH_PORT": port}
        environ |= {"DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}", "DARKROOM_ADMIN_KEY": new_token()}
        environ |= {"DARKROOM_SEARCH_INDEX": f"embedded:{name}/index"}
        with Platform.open({**FAKE, **environ}, Path(name), broker=False) as platform:
            platform.start("search", "search")
            figures = measured(platform, Path(name) / "pictures", pictures)
    report.publish(args, "crawl", {"pictures": pictures, "side": SIDE, "index": "embedded"}, figures, {})


if __name__ == "__main__":
    main()
