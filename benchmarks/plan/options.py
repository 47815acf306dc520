"""The arguments of a plan, and what can be simulated."""

from __future__ import annotations

import argparse
import math
from typing import Final

from benchmarks import report
from benchmarks.arguments import at_least_zero, below_one, count, positive, readable, share, whole
from benchmarks.plan import devices
from benchmarks.plan.autoscaler import Rule
from benchmarks.plan.devices import Device
from benchmarks.plan.state import Config

SCALING: Final = (0.01, 0.1)
"""Shares of the users that are simulated too, to show how the simulation's time grows."""

FEWEST: Final = 20
MOST: Final = 2e8
"""Requests of a simulated day. Its smallest part, too, must have some; at the most a day takes minutes and gigabytes."""
BOUNDS: Final = {
    "hours": (0.1, 24 * 7),
    "max_batch": (1, 1024),
    "fixed": (1, 100_000),
    "utilisation": (0.01, 1.0),
    "poll": (1.0, 3600.0),
    "drain": (1.0, 86_400.0),
    "start_up": (0.0, 86_400.0),
    "crash_hours": (0.1, 1e6),
    "spot_life_hours": (0.1, 1e6),
    "more_days": (0, 1000),
}
"""What can be simulated: fleets and clocks beyond it are no plan."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    made = report.parser(doc)
    made.prog = "darkroom plan"
    users = made.add_argument_group("users")
    users.add_argument("--users", type=positive, default=1e6)
    users.add_argument("--images-per-day", type=positive, default=10.0, help="of each user")
    users.add_argument("--hours", type=positive, default=24.0, help="simulated, from midnight")
    users.add_argument("--swing", type=share, default=0.5, help="how far the busiest hour is above the mean")
    users.add_argument(
        "--repeats", type=below_one, default=0.3, help="share of a day's requests made before that day"
    )
    users.add_argument(
        "--universe", type=count, help="different requests that there are; by default a day's number"
    )
    users.add_argument("--ttl-hours", type=at_least_zero, default=24.0, help="how long a result is kept")
    fleet = made.add_argument_group("devices")
    fleet.add_argument("--gpu", choices=devices.KNOWN, default="a100-eager")
    fleet.add_argument("--cost", type=readable, help="JSON with a_s and b_s, instead of --gpu")
    fleet.add_argument("--price", type=at_least_zero, help="dollars an hour")
    fleet.add_argument("--spot-price", type=at_least_zero, help="dollars an hour")
    fleet.add_argument("--spot-share", type=share, default=0.0, help="of the devices that are started")
    fleet.add_argument(
        "--spot-life-hours", type=positive, default=8.0, help="until a spot device is taken back, mean"
    )
    fleet.add_argument("--crash-hours", type=positive, default=720.0, help="until a worker crashes, mean")
    fleet.add_argument(
        "--start-up", type=at_least_zero, default=90.0, help="seconds until a new worker is ready"
    )
    fleet.add_argument("--max-batch", type=count, default=8)
    rule = made.add_argument_group("autoscaling")
    defaults = Rule()
    rule.add_argument("--fixed", type=count, help="that many workers, no autoscaling")
    rule.add_argument(
        "--utilisation", type=positive, default=defaults.utilisation, help="load a worker is to have"
    )
    rule.add_argument(
        "--drain", type=positive, default=defaults.drain_s, help="seconds in which a backlog is to be gone"
    )
    rule.add_argument("--poll", type=positive, default=defaults.poll_s, help="seconds between looks")
    rule.add_argument(
        "--tolerance", type=at_least_zero, default=defaults.tolerance, help="HPA's; its own default is 0.1"
    )
    rule.add_argument(
        "--down-window", type=at_least_zero, default=defaults.down_window_s, help="HPA's scale-down window"
    )
    made.add_argument("--slo", type=positive, default=2.0, help="seconds within which an answer is good")
    made.add_argument(
        "--added-ms", type=at_least_zero, default=14.0, help="what the platform adds to a computed image"
    )
    made.add_argument("--hit-ms", type=at_least_zero, default=5.0, help="a cache hit")
    made.add_argument("--seed", type=whole, default=1)
    made.add_argument(
        "--more-days",
        type=whole,
        default=0,
        help="simulate as many others, drawn anew, to see what is chance",
    )
    return made


def check_size(args: argparse.Namespace) -> None:
    """Raises `ValueError` for a day without requests, or with more events than memory and patience hold."""
    for name, (least, most) in BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} {value:g} is not from {least:g} to {most:g}.")
    requests = args.users * args.images_per_day * args.hours / 24
    if requests * min(SCALING) < FEWEST:
        raise ValueError(
            f"--users, --images-per-day and --hours make {requests:.3g} requests: too few to simulate."
        )
    if requests > MOST:
        raise ValueError(
            f"--users, --images-per-day and --hours make {requests:.3g} requests: {MOST:.0e} at most."
        )


def device_of(args: argparse.Namespace) -> Device:
    found = devices.measured(args.cost) if args.cost else devices.KNOWN[args.gpu]
    price = found.price if args.price is None else args.price
    spot = found.spot_price if args.spot_price is None else args.spot_price
    return Device(found.name, found.a_s, found.b_s, price, spot)


def config_of(args: argparse.Namespace, device: Device, first_load: float) -> Config:
    """`first_load`: the work of the first minutes, in devices."""
    rule = Rule(
        utilisation=args.utilisation,
        drain_s=args.drain,
        poll_s=args.poll,
        tolerance=args.tolerance,
        down_window_s=args.down_window,
    )
    return Config(
        device=device,
        max_batch=args.max_batch,
        rule=None if args.fixed else rule,
        start=args.fixed or max(1, math.ceil(first_load / rule.utilisation)),
        start_up_s=args.start_up,
        life_s=args.crash_hours * 3600,
        spot_share=args.spot_share,
        spot_life_s=args.spot_life_hours * 3600,
    )
