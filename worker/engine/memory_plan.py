"""The memory plan: how much memory the weights need, and each image of a pass.

It is made before the model is loaded. The pass runs on torch's meta device, where tensors have
shapes but no contents. Every storage that is allocated and freed is counted. The peak is that of
the real pass, and takes a second for a model of any size.
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
"""The factor for what is not counted: work space of kernels, and fragmentation."""
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """The memory plan of a model.

    `denoise_bytes`, `decode_bytes` and `embed_bytes` are what one image adds to a pass, at the model's
    default size. `free_bytes` is the memory that is free before the weights are loaded.
    """

    weights_bytes: int
    denoise_bytes: int
    decode_bytes: int
    free_bytes: int
    embed_bytes: int = 0

    def largest_batch(self, limit: int) -> int:
        """Return how many images fit in a pass, at most `limit`.

        Raises `ModelLoadRetryable`, with the numbers, if not even one fits.
        """
        available = self.free_bytes - self.weights_bytes * 1.05
        # All images of a pass are denoised together, and embedded together when they are finished.
        fits = int(available // (max(self.denoise_bytes, self.embed_bytes) * RESERVE))
        if fits < 1 or available < self.decode_bytes * RESERVE:
            raise ModelLoadRetryable(
                f"The model does not fit: its weights take {_mib(self.weights_bytes)}, one image "
                f"{_mib(int(max(self.denoise_bytes, self.decode_bytes, self.embed_bytes) * RESERVE))} more, and "
                f"{_mib(self.free_bytes)} are free. A smaller precision (DARKROOM_PRECISION, DARKROOM_QUANTISE) or "
                "DARKROOM_VAE=tiny need less."
            )
        return min(limit, fits)

    def decodes_whole(self, batch: int) -> bool:
        """Return whether the VAE can decode `batch` images at once. Otherwise it decodes one by one."""
        available = self.free_bytes - self.weights_bytes * 1.05
        return available >= batch * self.decode_bytes * RESERVE


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that are allocated inside the context.

    `live_bytes` is what lives now, and `peak_bytes` the most that lived at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(leaf) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_iter(output):
            if isinstance(leaf, torch.Tensor) and _key(leaf) not in inputs | self._seen:
                self._count(leaf)
        return output

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
    """Return the peak of the memory that `run` allocates, in bytes."""
    with torch.inference_mode(), Peak() as peak:
        run()
    return int(peak.peak_bytes)


def per_image(unet: Any, vae: Any, side: int, factor: int, tokens: int) -> tuple[int, int]:
    """Return the bytes that one image adds to a pass of `unet`, and to one of `vae`.

    The image has `side` x `side` pixels, and both networks are on the meta device. `factor` is the
    VAE's scale factor, and `tokens` the length of an encoded prompt.
    """
    config = unet.config
    rows = side // factor

    def denoise(count: int) -> int:
        def run() -> None:
            latents = torch.empty(count, config.in_channels, rows, rows, device="meta", dtype=unet.dtype)
            hidden = torch.empty(count, tokens, config.cross_attention_dim, device="meta", dtype=unet.dtype)
            timesteps = torch.empty(count, device="meta")
            unet(
                latents,
                timesteps,
                hidden,
                added_cond_kwargs=_added_cond(config, count, unet.dtype),
                return_dict=False,
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


def _added_cond(config: Any, count: int, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
    if config.addition_embed_type != "text_time":
        return None
    pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "text_embeds": torch.empty(count, pooled_width, device="meta", dtype=dtype),
        "time_ids": torch.empty(count, 6, device="meta", dtype=dtype),
    }


def _mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"
