"""Whether the API and the workers have the same policy, for `darkroom doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cli.findings import Finding, fault, ok, warn
from contracts.models import WorkerInfo
from moderation.policy import InvalidPolicy, read

SAME: Final = "give the API and all workers the same DARKROOM_MODERATION: a worker without the API's policy holds every image"


def own_policy(path: Path | None) -> tuple[str, list[Finding]]:
    """The policy of the settings as `name@version`, empty if there is none, and what is wrong with it."""
    if path is None:
        return "", []
    try:
        return read(path).title, []
    except InvalidPolicy as error:
        return "", [fault(f"DARKROOM_MODERATION: {error}", "correct the policy: darkroom moderation check")]


def policies(own: str, workers: Iterable[WorkerInfo]) -> Iterator[Finding]:
    """Compares the policy of the settings with those that workers have announced. Pure."""
    alike = True
    for worker in workers:
        if worker.policy == own:
            continue
        alike = False
        theirs = f"the policy {worker.policy}" if worker.policy else "no policy"
        ours = f"has {own}" if own else "has none"
        said = f"worker {worker.id} of {worker.model} has {theirs}, and DARKROOM_MODERATION here {ours}"
        if worker.policy.partition("@")[0] == own.partition("@")[0]:
            yield warn(said, "wait until each has read the new file, or give all the same one")
        else:
            yield fault(said, SAME)
    if own and alike:
        yield ok(f"policy: {own}, here and in all workers")
