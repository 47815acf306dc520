"""What every stage shares: settings, checkpoints, averaging of weights, and the bar."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

CHANNELS = 4
FACTOR = 4
TOKENS = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """One run of the recipe. `out` is where finished model folders go."""

    cache: Path
    out: Path
    quick: bool = False
    resume: bool = True
    seed: int = 20
    steps: int | None = None

    @property
    def work(self) -> Path:
        """Where checkpoints of this kind of run live."""
        folder = self.cache / ("quick" if self.quick else "full")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(slots=True)
class Crew:
    """The data-parallel processes of this run: one alone unless WORLD_SIZE says otherwise."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Crew:
        """Joins the group that torchrun (or a shell setting its variables) describes."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages gradients over the crew, as one flat message."""
        if self.size == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def wait(self) -> None:
        """Waits for the whole crew."""
        if self.size > 1:
            dist.barrier()


class Average:
    """Exponential moving average of a module's weights, with a short warm-up."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.seen = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's present weights."""
        self.seen += 1
        decay = min(self.decay, (1 + self.seen) / (10 + self.seen))
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        mine, theirs = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def schedule(step: int, steps: int, warm: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine to `floor`: the factor of the learning rate."""
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that an interruption leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint, or nothing where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def bar(steps: int, start: int, name: str) -> Any:
    """A progress bar that says what a step costs and what the loss is."""
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, desc=name, mininterval=5, dynamic_ncols=True)


def progress(items: list[Any], name: str) -> Any:
    """The items, with a bar."""
    from tqdm import tqdm

    return tqdm(items, desc=name, mininterval=5, dynamic_ncols=True)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; where it does not, it is slower than float32."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def fast() -> torch.autocast:
    """Half precision where the processor has it; else a context that does nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16())
