"""What happened in one round, as the outside saw it and as the store holds it. Plain data: `checker` judges it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

TERMINAL = ("succeeded", "failed", "canceled", "expired")


@dataclass(frozen=True)
class Submit:
    """One request. `outcome`: `accepted` (200, 202), `refused` (an answer of any other kind), or `unknown` (no answer: the
    job may or may not be there)."""

    seed: int
    at: float
    took_s: float
    outcome: str
    status: int = 0
    code: str = ""
    job_id: str = ""


@dataclass(frozen=True)
class Final:
    """A job at the end of the round, as the store holds it; `seen` is what its owner was told last."""

    status: str
    created_at: float
    deadline: float
    finished_at: float
    attempt: int
    code: str = ""
    seen: str = ""


@dataclass(frozen=True)
class Counts:
    """The store's exact counters, and the jobs that it holds alive."""

    recorded: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    live: int = 0


@dataclass
class History:
    """One round. Times are Unix seconds of this machine, which store, brokers and processes share."""

    row: int
    seed: int
    began: float = 0.0
    submits: list[Submit] = field(default_factory=list)
    finals: dict[str, Final] = field(default_factory=dict)
    """Every job of the round that the store knows of, accepted or not."""
    terminal_events: dict[str, int] = field(default_factory=dict)
    """How many terminal transitions of each job were announced."""
    before: Counts | None = None
    after: Counts | None = None
    """None where the fault destroys the counters themselves."""
    computations: dict[int, int] = field(default_factory=dict)
    """By seed: how often the engine has finished a picture."""
    keys: int = 0
    """Different seeds that were asked for."""
    faults: list[tuple[float, str]] = field(default_factory=list)
    healed: float = 0.0
    in_flight: int = 0
    """Jobs in the hands of what was hit, at each fault, in all."""
    allowed: frozenset[str] = frozenset({"succeeded"})
    """Terminal states that the row may lead to."""
    notes: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    """Violations that only the row itself can see."""

    @property
    def accepted(self) -> list[Submit]:
        return [each for each in self.submits if each.outcome == "accepted"]

    def summary(self) -> dict[str, Any]:
        """What the campaign keeps of a round."""
        outcomes: dict[str, int] = {}
        for each in self.submits:
            outcomes[each.outcome] = outcomes.get(each.outcome, 0) + 1
        statuses: dict[str, int] = {}
        for final in self.finals.values():
            statuses[final.status] = statuses.get(final.status, 0) + 1
        extra = sum(self.computations.values()) - len(self.computations)
        return {
            "row": self.row,
            "seed": self.seed,
            "outcomes": outcomes,
            "statuses": statuses,
            "extra_computations": extra,
            "in_flight": self.in_flight,
            "further_attempts": sum(max(0, final.attempt - 1) for final in self.finals.values()),
            "faults": [what for _, what in self.faults],
            "notes": self.notes,
        }


def to_json(history: History) -> dict[str, Any]:
    """All of it, for a round that failed."""
    return {**asdict(history), "allowed": sorted(history.allowed)}
