"""The device: its name, its memory, and what it can compute. Only this module asks torch about hardware."""

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
"""The dtypes of `DARKROOM_PRECISION`."""
FP8_CAPABILITY: Final = (8, 9)
"""The lowest compute capability that multiplies 8-bit floating point numbers."""
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
        """The device's type without its index, such as `cuda`."""
        return self.torch_name.partition(":")[0]

    @property
    def name(self) -> str:
        """The name that its maker gives it; for `mps` and `xpu`, the kind."""
        if self.kind == "cuda":
            return str(torch.cuda.get_device_name(self.torch_name))
        return _processor() if self.kind == "cpu" else self.kind

    def dtype(self, precision: str) -> torch.dtype:
        """Return the dtype to compute in. `auto` is float16 on an accelerator and float32 on a CPU.

        `precision` is `DARKROOM_PRECISION`. Raises `ModelLoadError` if the device cannot compute in it.
        """
        if precision == "auto":
            return torch.float32 if self.kind == "cpu" else torch.float16
        if (
            precision == "bfloat16"
            and self.kind == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise ModelLoadError(
                f"DARKROOM_PRECISION=bfloat16: {self.name} cannot compute in it; float16 can."
            )
        return DTYPES[precision]

    def can_quantise(self, way: str) -> None:
        """Raise `ModelLoadError` if the device lacks the arithmetic of `way`.

        `fp8` needs NVIDIA's Ada, Hopper or later.
        """
        if way != "fp8":
            return
        if self.kind != "cuda" or torch.cuda.get_device_capability(self.torch_name) < FP8_CAPABILITY:
            raise ModelLoadError(
                f"DARKROOM_QUANTISE=fp8: {self.name} does not multiply 8-bit floating point numbers; NVIDIA's Ada, Hopper and later do. "
                "int8 runs anywhere."
            )

    def free_bytes(self) -> int:
        """Return the memory that is free now, in bytes.

        That is the GPU's memory. On other devices it is the machine's, within the container's limit.
        """
        if self.kind == "cuda":
            return int(torch.cuda.mem_get_info(self.torch_name)[0])
        return min(psutil.virtual_memory().available, _cgroup_free(_CGROUP))

    def begin_peak(self) -> None:
        """Start a new measurement of the peak memory."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.torch_name)

    def peak_bytes(self) -> int | None:
        """Return the peak memory since `begin_peak`, in bytes; None if the device does not report it."""
        return int(torch.cuda.max_memory_allocated(self.torch_name)) if self.kind == "cuda" else None

    def free_cache(self) -> None:
        """Free torch's cache of device memory.

        Raises if the device is lost to this process. After an illegal access or a failed assertion in
        a kernel, every further call fails.
        """
        if self.kind == "cuda":
            torch.cuda.synchronize(self.torch_name)
            torch.cuda.empty_cache()


def pick(setting: str) -> Device:
    """Return the device that `setting` (`DARKROOM_DEVICE`) names; for `auto`, the best one.

    Raises `ModelLoadError` if torch does not see it.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": torch.xpu.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if setting == "auto":
        return Device(next(kind for kind, is_available in available.items() if is_available()))
    kind, _, index = setting.partition(":")
    if not available[kind]():
        raise ModelLoadError(
            f"DARKROOM_DEVICE={setting}: this PyTorch ({torch.__version__}) sees no such device."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"DARKROOM_DEVICE={setting}: there are {torch.cuda.device_count()} devices, counted from 0."
        )
    return Device(setting)


def keep_memory() -> None:
    """Let the process keep freed memory for the next batch.

    By default glibc maps memory for every large tensor and unmaps it when the tensor is freed. The
    kernel then has to clear each page again and again.
    """
    with suppress(OSError, AttributeError):
        libc: Any = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 29)
        libc.mallopt(_TOP_PAD, 1 << 26)


def _cgroup_free(folder: Path) -> int:
    """The bytes that the container's limit leaves. Without a limit, a number above any memory."""
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
