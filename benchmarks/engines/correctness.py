"""Whether the engine is correct on this device, promise by promise: the first part of `benchmarks.gpu_check`.

The embedded model draws; its pictures on the CPU in single precision are the measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks import report
from benchmarks.lib.apart import apart
from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.failures import OutOfMemory
from contracts.settings import WorkerSettings
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine
from worker.engine.quality import psnr_db

MODEL: Final = report.ROOT / "models" / "emoji-turbo"
KEY: Final = BatchKey("emoji-turbo", 64, 64, guided=False)
BATCH: Final = 8
MANY: Final = 512
"""Images of which a pass takes hundreds of MiB."""
CLOSE_DB: Final = 35.0
"""Half precision against single, at least."""
SAME_DB: Final = 50.0
"""The same picture in other company, at least."""
PROMPTS: Final = ("a red apple", "a blue rocket", "a cat on a yellow background", "a green tree")


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise, and what came out."""

    promise: str
    holds: bool
    figure: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS':6} {self.promise}: {self.figure}"


def check(device: Device) -> list[Finding]:
    """Every promise that can be asked of this device, each in a process of its own; prints each finding."""
    promises: list[Callable[[Device], Finding]] = [near_the_cpu, alone_or_together, equal_to_the_bit]
    if device.kind == "cuda":
        promises += [recorded, out_of_memory, lost_device]
    found = []
    for promise in promises:
        asked = apart(promise, device)
        error = asked.exception()
        found.append(
            asked.result() if error is None else Finding(promise.__name__, holds=False, figure=repr(error))
        )
        print(found[-1], flush=True)
    return found


def near_the_cpu(device: Device) -> Finding:
    """The noise is drawn on the CPU, so that a seed is the same picture on any device."""
    here = worst(pictures(engine(device)), pictures(engine(Device("cpu"), precision="float32")))
    return Finding("pictures are those of the CPU in float32", here >= CLOSE_DB, f"{here:.1f} dB")


def alone_or_together(device: Device) -> Finding:
    opened = engine(device)
    together = pictures(opened)
    alone = [pictures(opened, [number])[0] for number in range(BATCH)]
    found = worst(together, alone)
    return Finding("a picture is the same alone and in a batch", found >= SAME_DB, f"{found:.1f} dB")


def equal_to_the_bit(device: Device) -> Finding:
    opened = engine(device, fixed_batch=4)
    together = pictures(opened)
    alone = [pictures(opened, [number])[0] for number in range(BATCH)]
    return Finding(
        "DARKROOM_FIXED_BATCH: equal to the bit in any company", together == alone, str(together == alone)
    )


def recorded(device: Device) -> Finding:
    """Batches of every size twice over: the second comes from the recording."""
    plain, graphs = engine(device), engine(device, graphs="auto")
    found = min(
        worst(pictures(plain, range(size)), pictures(graphs, range(size))) for size in (1, 3, 8, 3, 1, 8)
    )
    return Finding(
        "DARKROOM_GRAPHS: the pictures of a pass that is not recorded", found >= SAME_DB, f"{found:.1f} dB"
    )


def out_of_memory(device: Device) -> Finding:
    """A pass of very many that does not fit is told as such, memory is freed, and the next one draws as ever."""
    opened = engine(device)
    before = pictures(opened)
    index = torch.device(device.torch_name).index or 0
    _, total = torch.cuda.mem_get_info(index)
    device.free_cache()
    held = torch.cuda.memory_reserved(index)
    torch.cuda.set_per_process_memory_fraction((held + 2**21) / total, index)
    try:
        pictures(opened, range(MANY))
        told = False
    except OutOfMemory:
        told = True
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
    opened.free_memory()
    same = worst(before, pictures(opened))
    return Finding(
        "out of memory is told, and the next pass draws",
        told and same >= SAME_DB,
        f"told: {told}; {same:.1f} dB",
    )


def lost_device(device: Device) -> Finding:
    """An index out of bounds fails an assertion inside a kernel, after which every call of this process on the device fails."""
    opened = engine(device)
    values = torch.zeros(4, device=device.torch_name)
    told = []
    for use in (
        lambda: values[torch.tensor([9], device=device.torch_name)].sum().item(),
        opened.free_memory,
        lambda: pictures(opened),
    ):
        try:
            use()
        except RuntimeError:
            told.append(use)
    return Finding("a lost device is told by whatever comes next", len(told) == 3, f"{len(told)} of 3 told")


def engine(device: Device, **more: Any) -> DiffusersEngine:
    settings = {"model": str(MODEL), "device": device.torch_name, "max_batch": BATCH, **more}
    made = DiffusersEngine(WorkerSettings.model_validate(settings), MODEL.name)
    made.load()
    return made


def pictures(opened: DiffusersEngine, numbers: Any = range(BATCH)) -> list[Pixels]:
    """Those of the numbers, in one pass. Raises `ValueError` for what is no picture."""
    tasks = {number: ImageTask(PROMPTS[number % len(PROMPTS)], "", number, 1) for number in numbers}
    made = opened.advance(Batch(KEY, tuple(tasks), tasks))
    drawn = [each for each in made if isinstance(each, Pixels)]
    if len(drawn) != len(made):
        raise ValueError(f"not every answer is a picture: {made}")
    return drawn


def worst(one: list[Pixels], other: list[Pixels]) -> float:
    """The smallest PSNR of the pairs, dB."""
    return min(psnr_db(a, b) for a, b in zip(one, other, strict=True))
