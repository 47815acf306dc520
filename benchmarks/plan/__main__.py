"""Capacity for N users: a day of them, simulated on the platform's own scheduler under a virtual clock.

    python -m benchmarks.plan --users 1000000 --html plan.html
    darkroom plan --users 50000 --images-per-day 20 --gpu 4090-tensorrt --slo 1

What comes follows the hours of a day, and is as popular as Zipf has it; the cache and single-flight answer what they can.
What is left goes through the scheduler's own policy and fair clock to workers that start late, crash, and are scaled by KEDA's
rule. The answer: devices by hour, latencies, hours and dollars, what every lever saves, and how far it is from the least
that anyone could do who knew the future.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from benchmarks import report
from benchmarks.arguments import at_least_zero, below_one, count, positive, readable, share, whole
from benchmarks.plan import charts, devices, summary
from benchmarks.plan.autoscaler import Rule
from benchmarks.plan.devices import Device
from benchmarks.plan.fleet import Simulation
from benchmarks.plan.levers import Lever, levers
from benchmarks.plan.state import Config, Outcome
from benchmarks.plan.summary import Service
from benchmarks.plan.traffic import Traffic, traffic

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

OF_A_DAY: Final = (
    "gpu_hours_over_clairvoyant",
    "within_slo",
    "computed_within_slo",
    "gpu_hours_per_day",
    "p99_ms",
)
"""What is told of days that are drawn anew."""


@dataclass(frozen=True, slots=True)
class Day:
    """One simulated day and how long it took to simulate, in seconds of the processor."""

    traffic: Traffic
    outcome: Outcome
    took_s: float


def parser() -> argparse.ArgumentParser:
    made = report.parser(__doc__)
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


def day(args: argparse.Namespace, users: float) -> tuple[Day, Config]:
    """A day of that many users."""
    begun = time.process_time()
    rng = np.random.default_rng(args.seed)
    duration_s = args.hours * 3600
    comes = traffic(
        users * args.images_per_day,
        duration_s,
        args.repeats,
        args.ttl_hours * 3600,
        rng,
        args.swing,
        args.universe,
    )
    computed = comes.times[comes.computed]
    device = device_of(args)
    span_s = min(600.0, duration_s)
    first = float(np.searchsorted(computed, span_s)) / span_s * device.per_image_s(args.max_batch)
    config = config_of(args, device, first)
    outcome = Simulation(computed.tolist(), config, rng).run(duration_s)
    return Day(comes, outcome, time.process_time() - begun), config


def drawn_anew(args: argparse.Namespace, service: Service) -> list[dict[str, float]]:
    """Figures of further days, each from a seed of its own: what of the plan is chance."""
    found = []
    for seed in range(args.seed + 1, args.seed + 1 + args.more_days):
        done, config = day(argparse.Namespace(**{**vars(args), "seed": seed}), args.users)
        figures = summary.figures(done.traffic, done.outcome, config, service, args.hours * 3600)
        found.append({"seed": seed, **{name: figures[name] for name in OF_A_DAY}})
    return found


def main() -> int:
    args = parser().parse_args()
    if args.quick:
        args.users = min(args.users, 20_000.0)
    try:
        device = device_of(args)
        check_size(args)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    service = Service(args.added_ms / 1000, args.hit_ms / 1000, args.slo)
    duration_s = args.hours * 3600
    speed = []
    for part in SCALING:
        small, _ = day(args, args.users * part)
        speed.append((len(small.traffic.times), small.took_s))
    done, config = day(args, args.users)
    speed.append((len(done.traffic.times), done.took_s))
    found = summary.figures(done.traffic, done.outcome, config, service, duration_s)
    found["simulation_cpu_s"] = done.took_s
    days = [{"seed": args.seed, **{name: found[name] for name in OF_A_DAY}}, *drawn_anew(args, service)]
    if args.more_days:
        found["gpu_hours_over_clairvoyant_worst_day"] = max(each[OF_A_DAY[0]] for each in days)
        found["within_slo_worst_day"] = min(each["within_slo"] for each in days)
    rule = config.rule or Rule()
    pulled = levers(
        done.traffic,
        device,
        args.max_batch,
        rule,
        args.start_up,
        duration_s,
        found["computed_p50_ms"] / 1000,
    )
    hours = summary.by_hour(done.traffic, done.outcome, service, duration_s)
    report.publish(
        args,
        "plan",
        {
            **_config(args, config),
            "by_hour": hours,
            "levers": [asdict(each) for each in pulled],
            "days": days,
        },
        found,
        {"speed": speed, "ticks": [list(asdict(tick).values()) for tick in done.outcome.ticks]},
        charts.charts(done.traffic, done.outcome, service, device.per_image_s(args.max_batch), pulled, speed),
        _tables(hours, pulled, config, days),
        _line(args, found, config),
    )
    return 0


def _config(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    told = {name: value for name, value in vars(args).items() if name not in ("json", "html", "cost", "doc")}
    return {**told, "device": asdict(config.device)}


def _tables(
    hours: list[dict[str, float]], pulled: list[Lever], config: Config, days: list[dict[str, float]]
) -> dict[str, report.Table]:
    heads = list(hours[0]) if hours else []
    price = config.device.price
    return {
        "hour by hour": [heads, *([f"{row[head]:.4g}" for head in heads] for row in hours)],
        "what each lever saves": [
            ["", "device hours a day", "dollars a day", "times the plan's"],
            *(
                [each.name, f"{each.hours:.1f}", f"{each.hours * price:.2f}", f"{each.factor:.2f}"]
                for each in pulled
            ),
        ],
        **(
            {
                "days drawn anew": [
                    list(days[0]),
                    *([f"{value:.5g}" for value in each.values()] for each in days),
                ]
            }
            if len(days) > 1
            else {}
        ),
    }


def _line(args: argparse.Namespace, found: dict[str, float], config: Config) -> str:
    return (
        f"plan: {args.users:,.0f} users x {args.images_per_day:g} images a day on {config.device.name}: "
        f"{found['gpus_mean']:.2f} devices on average, {found['gpus_max']:.0f} at most; p50 {found['p50_ms']:.0f} ms, "
        f"p99 {found['p99_ms']:.0f} ms, {found['within_slo']:.2%} within {args.slo:g} s; "
        f"{found['gpu_hours_per_day']:.1f} device hours and ${found['dollars_per_day']:.2f} a day, "
        f"${found['dollars_per_1000_images']:.4f} per 1000 images; "
        f"{found['gpu_hours_over_clairvoyant']:.3f} of the clairvoyant bound"
    )


if __name__ == "__main__":
    sys.exit(main())
