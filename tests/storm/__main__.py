"""`make storm`: requests at random against the embedded platform with both embedded models, for an hour.

Nothing may be answered with 5xx, no process may end, every accepted job must end, and none may fail. Exits 1 otherwise. The log in
`.cache/storm/SEED` names each request by its index; `--replay INDEX` sends that one again, alone.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.storm.run import replay, storm

ROOT: Final = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long requests are sent")
    parser.add_argument("--seed", type=int, default=1, help="decides every request")
    parser.add_argument(
        "--replay", type=int, metavar="INDEX", help="send this request of the seed's last storm again"
    )
    parser.add_argument("--folder", type=Path, help="logs; by default .cache/storm/SEED")
    args = parser.parse_args()
    # Ended as by Ctrl-C: nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder: Path = (args.folder or ROOT / ".cache" / "storm" / str(args.seed)).absolute()
    if args.replay is not None:
        if not (folder / "models.json").exists():
            parser.error(f"there is no storm in {folder}")
        outcome = replay(folder, args.seed, args.replay)
        print(json.dumps(asdict(outcome), indent=1))
        return 1 if outcome.faults else 0
    report = storm(folder, args.seed, args.minutes * 60)
    print(report.table())
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main())
