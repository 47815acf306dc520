"""How much memory a model needs, told before it is loaded: its weights, and what each image of a pass adds.

The pass is run on torch's meta device, where tensors have shapes and no contents, while every storage that is made and freed is
counted: the peak is that of the real pass, in a second, for a model of any size.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from worker.engine.errors import ModelLoadRetryable

RESERVE: Final = 1.25
"""On top of what is counted: work space of kernels, and fragments between tensors."""
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """`denoise_bytes` and `decode_bytes` are what one image adds to a pass, at the largest size that is to be served."""

    weights_bytes: int
    denoise_bytes: int
    decode_bytes: int
    free_bytes: int

    def largest_batch(self, wish: int) -> int:
        """Images in a pass, at most `wish`. Raises `ModelLoadRetryable` with the numbers when not even one fits."""
        room = self.free_bytes - self.weights_bytes * 1.05
        fits = int(room // (self.denoise_bytes * RESERVE))
        if fits < 1 or room < self.decode_bytes * RESERVE:
            raise ModelLoadRetryable(
                f"The model does not fit: its weights take {_mib(self.weights_bytes)}, one image "
                f"{_mib(int(max(self.denoise_bytes, self.decode_bytes) * RESERVE))} more, and "
                f"{_mib(self.free_bytes)} are free. A smaller precision (DARKROOM_PRECISION, DARKROOM_QUANTISE) or "
                "DARKROOM_VAE=tiny need less."
            )
        return min(wish, fits)

    def decodes_whole(self, batch: int) -> bool:
        """Whether `batch` images fit through the VAE at once; otherwise one after the other."""
        room = self.free_bytes - self.weights_bytes * 1.05
        return room >= batch * self.decode_bytes * RESERVE


class Peak(TorchDispatchMode):
    """Counts bytes of storages made inside: `peak_bytes` is the most that lived at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_key(each) for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)}
        answer = func(*args, **(kwargs or {}))
        for each in tree_iter(answer):
            if isinstance(each, torch.Tensor) and _key(each) not in before | self._seen:
                self._count(each)
        return answer

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _key(tensor), storage.nbytes()
        self._seen.add(key)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

        def freed() -> None:
            self._seen.discard(key)
            self.live_bytes -= size

        weakref.finalize(storage, freed)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_of(run: Callable[[], Any]) -> int:
    """The peak of what `run` makes, bytes."""
    with torch.inference_mode(), Peak() as counted:
        run()
    return int(counted.peak_bytes)


def per_image(unet: Any, vae: Any, side: int, factor: int, tokens: int) -> tuple[int, int]:
    """Bytes that one image of `side` x `side` pixels adds to a pass of `unet` and to one of `vae`, both on the meta device."""
    config = unet.config
    rows = side // factor

    def denoise(count: int) -> int:
        def run() -> None:
            latents = torch.empty(count, config.in_channels, rows, rows, device="meta", dtype=unet.dtype)
            states = torch.empty(count, tokens, config.cross_attention_dim, device="meta", dtype=unet.dtype)
            times = torch.empty(count, device="meta")
            unet(
                latents, times, states, added_cond_kwargs=_added(config, count, unet.dtype), return_dict=False
            )

        return peak_of(run)

    def decode(count: int) -> int:
        def run() -> None:
            channels = config.in_channels
            vae.decode(
                torch.empty(count, channels, rows, rows, device="meta", dtype=vae.dtype), return_dict=False
            )

        return peak_of(run)

    return denoise(2) - denoise(1), decode(2) - decode(1)


def _added(config: Any, count: int, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
    if config.addition_embed_type != "text_time":
        return None
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "text_embeds": torch.empty(count, pooled, device="meta", dtype=dtype),
        "time_ids": torch.empty(count, 6, device="meta", dtype=dtype),
    }


def _mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"
