"""The tables of a plan's report, and the plan in one line."""

from __future__ import annotations

import argparse

from benchmarks.plan.levers import Lever
from benchmarks.plan.state import Config
from benchmarks.report import Table


def tables(
    hours: list[dict[str, float]], pulled: list[Lever], config: Config, days: list[dict[str, float]]
) -> dict[str, Table]:
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


def line(args: argparse.Namespace, found: dict[str, float], config: Config) -> str:
    return (
        f"plan: {args.users:,.0f} users x {args.images_per_day:g} images a day on {config.device.name}: "
        f"{found['gpus_mean']:.2f} devices on average, {found['gpus_max']:.0f} at most; p50 {found['p50_ms']:.0f} ms, "
        f"p99 {found['p99_ms']:.0f} ms, {found['within_slo']:.2%} within {args.slo:g} s; "
        f"{found['gpu_hours_per_day']:.1f} device hours and ${found['dollars_per_day']:.2f} a day, "
        f"${found['dollars_per_1000_images']:.4f} per 1000 images; "
        f"{found['gpu_hours_over_clairvoyant']:.3f} of the clairvoyant bound"
    )
