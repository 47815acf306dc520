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
import sys
from dataclasses import asdict
from typing import Any

from benchmarks import report
from benchmarks.plan import charts, summary, tables
from benchmarks.plan.autoscaler import Rule
from benchmarks.plan.day import OF_A_DAY, day, drawn_anew
from benchmarks.plan.levers import levers
from benchmarks.plan.options import SCALING, check_size, device_of, parser
from benchmarks.plan.state import Config
from benchmarks.plan.summary import Service


def main() -> int:
    args = parser(__doc__).parse_args()
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
        tables.tables(hours, pulled, config, days),
        tables.line(args, found, config),
    )
    return 0


def _config(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    told = {name: value for name, value in vars(args).items() if name not in ("json", "html", "cost", "doc")}
    return {**told, "device": asdict(config.device)}


if __name__ == "__main__":
    sys.exit(main())
