"""What a deployment can carry: an open-loop load, its latencies, and the highest rate that holds the SLO.

    python -m benchmarks.load                                  # starts a platform, finds its capacity, loads it at 70 %
    python -m benchmarks.load --server URL --rate 20           # loads yours
    darkroom bench --server URL --find-capacity --html out.html

Requests leave at times that were drawn beforehand, whatever the server does, and each one's latency counts from when it was
due. Everything accepted is asked for again at the end: lost must be 0. The generator's own ceiling is measured too, and
a run that it has distorted says so. A capacity is tried again before it is named.

Exit codes: 0 all well; 1 the server does not answer, or not one request succeeded; 2 bad arguments; 3 surely worse than the --baseline;
4 accepted jobs are lost, or the platform's own books do not balance; 5 more requests than --max-errors were refused or failed.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Final

import httpx

from benchmarks.load import options, outcome
from benchmarks.load.generator import Generator, Target
from benchmarks.load.run import measured
from benchmarks.load.session import NoRequests

REACH_S: Final = 10.0


def main() -> int:
    args = options.parser(__doc__).parse_args()
    try:
        weights, keys = options.tenants(args.tenants)
        load = options.load_of(args, weights)
        baseline = options.baseline(args.baseline) if args.baseline else None
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return outcome.ARGUMENTS
    args.duration = args.duration or (8.0 if args.quick else 60.0)
    args.window = args.window or (3.0 if args.quick else 10.0)
    args.find_capacity = args.find_capacity or args.rate is None
    with ExitStack() as stack:
        url, redis_url = args.server, os.environ.get("DARKROOM_REDIS_URL")
        if url is None:
            from benchmarks.lib.platform import alone

            print("Starting a platform ...", file=sys.stderr)
            running = stack.enter_context(alone(workers=args.workers, broker=args.broker == "rabbitmq"))
            url, redis_url = running.url, running.redis.url
        target = Target(url, keys, args.timeout, args.poll, args.hook_host)
        try:
            httpx.get(f"{target.url}/healthz", timeout=REACH_S)
        except httpx.HTTPError as error:
            print(f"{target.url} does not answer: {type(error).__name__}.", file=sys.stderr)
            return outcome.NO_ANSWER
        generator = stack.enter_context(Generator(args.processes))
        try:
            return measured(args, generator, target, load, redis_url, baseline)
        except NoRequests as error:
            print(error, file=sys.stderr)
            return outcome.ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())
