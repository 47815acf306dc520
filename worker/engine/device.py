"""The device: what it is called, what it holds, what it can compute. The only place that asks torch about hardware."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from worker.engine.errors import ModelLoadError

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FP8_CAPABILITY: Final = (8, 9)
_CGROUP: Final = Path("/sys/fs/cgroup")
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_LARGEST_MMAP_THRESHOLD: Final = 1 << 25


@dataclass(frozen=True, slots=True)
class Device:
    """One device, as torch names it: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`."""

    torch_name: str

    @property
    def kind(self) -> str:
        return self.torch_name.partition(":")[0]

    @property
    def name(self) -> str:
        """As its maker names it."""
        if self.kind == "cuda":
            return str(torch.cuda.get_device_name(self.torch_name))
        return _processor() if self.kind == "cpu" else self.kind

    def dtype(self, wish: str) -> torch.dtype:
        """The arithmetic: `auto` is float16 on an accelerator and float32 on a CPU. Raises `ModelLoadError`."""
        if wish == "auto":
            return torch.float32 if self.kind == "cpu" else torch.float16
        if (
            wish == "bfloat16"
            and self.kind == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise ModelLoadError(
                f"DARKROOM_PRECISION=bfloat16: {self.name} cannot compute in it; float16 can."
            )
        return DTYPES[wish]

    def can_quantise(self, way: str) -> None:
        """Raises `ModelLoadError` where the device lacks the arithmetic: `fp8` needs NVIDIA's Ada, Hopper or later."""
        if way != "fp8":
            return
        if self.kind != "cuda" or torch.cuda.get_device_capability(self.torch_name) < FP8_CAPABILITY:
            raise ModelLoadError(
                f"DARKROOM_QUANTISE=fp8: {self.name} does not multiply 8-bit floating point numbers; NVIDIA's Ada, Hopper and later do. "
                "int8 runs anywhere."
            )

    def free_bytes(self) -> int:
        """Memory that is free now: the device's own, or the machine's within what the process may have of it."""
        if self.kind == "cuda":
            return int(torch.cuda.mem_get_info(self.torch_name)[0])
        return min(psutil.virtual_memory().available, _cgroup_free(_CGROUP))

    def begin_peak(self) -> None:
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.torch_name)

    def peak_bytes(self) -> int | None:
        """The most that was in use since `begin_peak`; None where the device does not tell."""
        return int(torch.cuda.max_memory_allocated(self.torch_name)) if self.kind == "cuda" else None

    def free_cache(self) -> None:
        """Raises where the device is lost to this process: after an illegal access or a failed assertion in a kernel every
        call fails, for good."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.torch_name)
            torch.cuda.empty_cache()


def pick(wish: str) -> Device:
    """The device of the setting. Raises `ModelLoadError` where torch does not see it."""
    seen: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": torch.xpu.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if wish == "auto":
        return Device(next(kind for kind, is_there in seen.items() if is_there()))
    kind, _, index = wish.partition(":")
    if not seen[kind]():
        raise ModelLoadError(
            f"DARKROOM_DEVICE={wish}: this PyTorch ({torch.__version__}) sees no such device."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"DARKROOM_DEVICE={wish}: there are {torch.cuda.device_count()} devices, counted from 0."
        )
    return Device(wish)


def keep_memory() -> None:
    """Let the process keep freed memory for the next pass.

    By default glibc maps every large tensor anew and returns it when freed, and the kernel clears each page again and again.
    """
    with suppress(OSError, AttributeError):
        libc: Any = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 29)
        libc.mallopt(_TOP_PAD, 1 << 26)


def _cgroup_free(folder: Path) -> int:
    """What a container's limit leaves; without a limit, more than there is."""
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
