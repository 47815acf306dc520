"""The arguments of the load test, and what they come to."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.arguments import (
    at_least_zero,
    below_one,
    count,
    positive,
    readable,
    server,
    share,
    whole,
)
from benchmarks.lib import arrivals
from benchmarks.lib.arrivals import PATTERNS
from benchmarks.load import corpus
from benchmarks.load.corpus import Mix
from benchmarks.load.modes import MODES
from benchmarks.load.sample import OK
from benchmarks.load.schedule import Load

_SIZE: Final = re.compile(r"default|\d{1,5}(x\d{1,5})?", re.ASCII)
_STEPS: Final = re.compile(r"default|\d{1,5}", re.ASCII)


def parser(doc: str | None) -> argparse.ArgumentParser:
    made = report.parser(doc)
    made.prog = "darkroom bench"
    where = made.add_argument_group("where")
    where.add_argument("--server", type=server, help="its URL; by default a platform of our own is started")
    where.add_argument(
        "--broker", choices=("rabbitmq", "redis"), default="rabbitmq", help="of our own platform"
    )
    where.add_argument("--workers", type=count, default=1, help="of our own platform")
    where.add_argument(
        "--tenants",
        type=readable,
        help='JSON: {"name": {"weight": 3, "key": "dk_..."}}; one key alone: the variable DARKROOM_API_KEY',
    )
    what = made.add_argument_group("what is sent")
    what.add_argument(
        "--rate", type=positive, help="requests per second; by default 70 %% of the capacity found"
    )
    what.add_argument("--duration", type=positive, help="seconds (60; quick: 8)")
    what.add_argument("--arrivals", choices=PATTERNS, default="poisson")
    what.add_argument("--burstiness", type=positive, default=4.0, help="of gamma arrivals: 1 is Poisson")
    what.add_argument(
        "--trace", type=readable, help="CSV whose first column is seconds, for --arrivals trace"
    )
    what.add_argument("--prompts", type=readable, help="one a line; by default what the embedded model knows")
    what.add_argument(
        "--repeats", type=below_one, default=0.3, help="share of requests that were made before"
    )
    what.add_argument("--universe", type=count, default=100_000, help="different requests that there are")
    what.add_argument(
        "--sizes", type=Mix.parse, default=Mix.parse("default"), help="such as 512x512=3,768x512=1"
    )
    what.add_argument("--steps", type=Mix.parse, default=Mix.parse("default"), help="such as 1=9,4=1")
    what.add_argument(
        "--mode", type=Mix.parse, default=Mix.parse("wait"), help=f"a mix of {', '.join(MODES)}"
    )
    what.add_argument("--model", help="by default the server's own")
    what.add_argument("--seed", type=whole, default=1, help="of the load: the same seed, the same load")
    how = made.add_argument_group("how it is judged")
    how.add_argument("--slo", type=positive, default=2.0, help="seconds within which an answer is good")
    how.add_argument(
        "--find-capacity", action="store_true", help="search the highest rate that holds the SLO"
    )
    how.add_argument("--window", type=positive, help="seconds of one trial of the search (10; quick: 3)")
    how.add_argument(
        "--baseline", type=readable, help="an earlier JSON report: exit 3 if this run is surely worse"
    )
    how.add_argument(
        "--max-errors",
        type=share,
        default=0.01,
        help="share of requests that may be refused or fail; more: exit 5",
    )
    how.add_argument("--tolerance", type=at_least_zero, default=0.05, help="a difference that does not count")
    how.add_argument(
        "--timeout", type=positive, default=60.0, help="seconds after which a request is given up"
    )
    how.add_argument("--processes", type=count, default=1, help="that send")
    how.add_argument("--poll", type=positive, default=0.1, help="seconds between reads in mode poll")
    how.add_argument(
        "--hook-host", default="127.0.0.1", help="our address for webhooks, as the server sees it"
    )
    how.add_argument("--no-ceiling", action="store_true", help="do not measure the generator's own ceiling")
    how.add_argument("--no-bar", action="store_true", help="no progress bar")
    return made


def tenants(path: Path | None) -> tuple[Mix, dict[str, str]]:
    """Tenants by weight, and their keys. Raises `ValueError` for a file of another form."""
    if path is None:
        key = os.environ.get("DARKROOM_API_KEY", "")
        return Mix(("public",), (1.0,)), {"public": key} if key else {}
    try:
        table = json.loads(path.read_text())
        names = tuple(table)
        weights = tuple(float(table[name].get("weight", 1)) for name in names)
        keys = {name: str(table[name]["key"]) for name in names if table[name].get("key")}
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f'{path} must be of the form {{"name": {{"weight": 3, "key": "dk_..."}}}}.'
        ) from None
    if not names or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"{path}: every tenant needs a positive weight.")
    return Mix(names, weights), keys


def baseline(path: Path) -> dict[str, Any]:
    """An earlier report. Raises `ValueError` for what is none, or one that compares with nothing."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        outcomes = found["samples"]["outcome"]
        if not (found["config"] and len(outcomes) == len(found["samples"]["latency_s"])):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no report of this load test.") from None
    if OK not in outcomes:
        raise ValueError(f"{path}: nothing was answered in that run, so nothing compares with it.")
    return found


def load_of(args: argparse.Namespace, weights: Mix) -> Load:
    """Raises `ValueError` for what does not fit together."""
    unknown = set(args.mode.names) - set(MODES)
    if unknown:
        raise ValueError(f"--mode: {', '.join(sorted(unknown))}: there is only {', '.join(MODES)}.")
    if args.arrivals == "trace" and args.trace is None:
        raise ValueError("--arrivals trace needs --trace FILE.")
    if args.arrivals == "trace":
        arrivals.trace(args.trace, 1.0)
    corpus.prompts(args.prompts)
    for option, names, form in (("--sizes", args.sizes.names, _SIZE), ("--steps", args.steps.names, _STEPS)):
        if wrong := [name for name in names if not form.fullmatch(name)]:
            raise ValueError(f"{option}: {wrong[0]!r} is none; see --help.")
    if "webhook" in args.mode.names:
        # Where the server is to call us.
        socket.create_server((args.hook_host, 0)).close()
    return Load(
        arrivals=args.arrivals,
        burstiness=args.burstiness,
        trace=args.trace,
        prompts=args.prompts,
        universe=args.universe,
        repeats=args.repeats,
        sizes=args.sizes,
        steps=args.steps,
        modes=args.mode,
        tenants=weights,
        model=args.model,
        seed=args.seed,
    )
