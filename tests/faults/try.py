import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.catalogue import BY_NUMBER
from tests.faults.round import play
from tests.faults.site import opened

nums = [int(x) for x in sys.argv[1].split(",")]
rounds = int(sys.argv[2])
jobs = int(sys.argv[3])
mut = tuple(sys.argv[4:])
with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as d:
    t = time.time()
    with opened(Path(d)) as site:
        print("open", round(time.time() - t, 1), flush=True)
        for n in nums:
            for s in range(rounds):
                t = time.time()
                try:
                    h, v = play(site, BY_NUMBER[n], s, jobs, mut)
                    print(n, s, round(time.time() - t, 1), json.dumps(h.summary()), v[:5], len(v), flush=True)
                except Exception:
                    print(n, s, traceback.format_exc(), flush=True)
                    site.end()
