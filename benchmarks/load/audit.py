"""Whether anything that was accepted is missing: every job is asked for again, and must have ended once; and where we reach the
platform's Redis, its own books (`darkroom audit`) must balance.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from benchmarks.load.generator import Target
from benchmarks.load.modes import TERMINAL
from benchmarks.load.sample import Sample
from benchmarks.report import ROOT

WAIT_S: Final = 10
LOST: Final = "lost"


@dataclass(frozen=True, slots=True)
class Audit:
    """`states` counts the accepted jobs by how they ended. `lost`: unknown to the server, or ended otherwise than the client
    was told. `unsettled`: still on their way when the time was over."""

    accepted: int
    lost: int
    unsettled: int
    states: dict[str, int] = field(default_factory=dict)


def audit(target: Target, samples: Sequence[Sample], settle_s: float = 60.0) -> Audit:
    """Asks the server for every accepted job of the samples; waits up to `settle_s` seconds in all for those that run."""
    until = time.monotonic() + settle_s
    states: Counter[str] = Counter()
    accepted = [each for each in samples if each.job_id is not None]
    with httpx.Client(base_url=target.url, timeout=WAIT_S + 5) as http:
        for each in accepted:
            state = _state(http, each, target, until)
            told = each.status if each.status in TERMINAL else None
            states[LOST if told is not None and state != told else state] += 1
    unsettled = sum(count for state, count in states.items() if state not in TERMINAL and state != LOST)
    return Audit(len(accepted), states[LOST], unsettled, dict(states))


def books(redis_url: str | None) -> tuple[bool, str]:
    """(whether the platform's own books balance, what they say). Nothing is asked where its Redis is not known."""
    if not redis_url:
        return True, "not asked: DARKROOM_REDIS_URL is not set"
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "audit", "--full"],
        env={**os.environ, "DARKROOM_REDIS_URL": redis_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def _state(http: httpx.Client, each: Sample, target: Target, until: float) -> str:
    key = target.keys.get(each.tenant)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    while True:
        left = int(max(0, min(WAIT_S, until - time.monotonic())))
        headers["Prefer"] = f"wait={left}"
        answer = http.get(f"/v1/jobs/{each.job_id}", headers=headers if left else {**headers, "Prefer": ""})
        if answer.status_code in (404, 410):
            return LOST
        answer.raise_for_status()
        state = str(answer.json()["status"])
        if state in TERMINAL or not left:
            return state


def audited(target: Target, samples: list[Sample]) -> tuple[Audit, bool]:
    """(what became of the accepted jobs, whether the server could be asked)."""
    try:
        return audit(target, samples), True
    except httpx.HTTPError:
        accepted = sum(each.job_id is not None for each in samples)
        return Audit(accepted, 0, accepted), False
