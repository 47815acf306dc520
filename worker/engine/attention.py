"""The choice of the attention kernel, and the attention processor that calls it.

diffusers' `set_attention_backend` does not reach Stable Diffusion's UNet, because the UNet's
processor calls PyTorch directly. Our processor replaces it. PyTorch's own kernels are forced by
`sdpa_kernel` around the forward pass. The processor calls the others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from telemetry.logs import get_logger
from worker.engine.errors import ModelLoadError

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries, keys and values, (B, heads, tokens, head width), to the same shape, all of one floating dtype."""

_FORCED: Final = {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}
_PACKAGES: Final = {"xformers": "xformers", "sage": "sageattention"}
SAGE_WIDTHS: Final = (64, 96, 128)
"""Head widths that SageAttention has kernels for."""

log = get_logger(__name__)


def candidates(setting: str, device: str, installed: Iterable[str]) -> list[str]:
    """Return the kernels to try, best first.

    `setting` is `DARKROOM_ATTENTION`. With `auto`, these are xformers on CUDA if it is installed, then
    flash, then PyTorch's choice. SageAttention computes in 8 bits and is only used on request.
    """
    if setting != "auto":
        return [setting]
    first = ["xformers"] if device == "cuda" and "xformers" in set(installed) else []
    return [*first, "flash", "sdpa"]


def install(unet: Any, setting: str) -> Kernel:
    """Install the first kernel that works in `unet`. It is tried at each of the UNet's head widths.

    `setting` is `DARKROOM_ATTENTION`. Raises `ModelLoadError`, with the reasons, if none works.
    """
    device, dtype = unet.device, unet.dtype
    installed = [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]
    refusals: list[str] = []
    for name in candidates(setting, device.type, installed):
        try:
            kernel = Kernel(name, device)
            for width in head_widths(unet):
                kernel.try_out(width, device, dtype)
        except (ImportError, RuntimeError, NotImplementedError, ValueError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            refusals.append(f"{name}: {first_line}")
            continue
        unet.set_attn_processor(Processor(kernel.attend))
        log.info("attention", kernel=name, wish=setting, device=str(device), refused=refusals)
        return kernel
    raise ModelLoadError(
        f"DARKROOM_ATTENTION={setting} cannot run on {device} with {dtype}: {'; '.join(refusals)}"
    )


def head_widths(unet: Any) -> list[int]:
    """Return the head widths of the UNet's attention layers, ascending, each once."""
    return sorted(
        {m.to_q.out_features // m.heads for m in unet.modules() if hasattr(m, "to_q") and hasattr(m, "heads")}
    )


class Kernel:
    """One way to compute attention.

    Raises `ValueError` or `ImportError` if the kernel cannot run on `device` or is not installed.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.attend: Attend = F.scaled_dot_product_attention
        if name in _PACKAGES and device.type != "cuda":
            raise ValueError("it has kernels for CUDA only")
        if name == "xformers":
            self.attend = _xformers()
        elif name == "sage":
            self.attend = _sage()

    def __call__(self) -> AbstractContextManager[Any]:
        """Return a context for a pass of the UNet: inside, PyTorch runs this kernel or raises."""
        forced = _FORCED.get(self.name)
        return nullcontext() if forced is None else sdpa_kernel(forced)

    def try_out(self, width: int, device: torch.device, dtype: torch.dtype) -> None:
        """Compute a small attention with heads of `width`. Raises what the kernel raises."""
        probe = torch.ones(2, 2, 16, width, device=device, dtype=dtype)
        with torch.inference_mode(), self():
            self.attend(probe, probe, probe)


def _xformers() -> Attend:
    from xformers.ops import memory_efficient_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        # xformers expects (B, tokens, heads, width).
        q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
        hidden_states: torch.Tensor = memory_efficient_attention(q, k, v)
        return hidden_states.transpose(1, 2)

    return attend


def _sage() -> Attend:
    from sageattention import sageattn

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if query.shape[-1] not in SAGE_WIDTHS:
            return F.scaled_dot_product_attention(query, key, value)
        hidden_states: torch.Tensor = sageattn(query, key, value, tensor_layout="HND", is_causal=False)
        return hidden_states

    return attend


class Processor:
    """The attention processor of Stable Diffusion's UNet, for self-attention and cross-attention."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        """Return the attention's output, (B, tokens, width), in the dtype of `hidden_states`.

        `hidden_states` is (B, tokens, width). `encoder_hidden_states` is (B, prompt tokens, prompt
        width) in the same dtype; None means self-attention. Raises `ValueError` if there is an
        `attention_mask`, or a norm that the UNet of no supported pipeline has.
        """
        if attention_mask is not None or attn.group_norm is not None or attn.spatial_norm is not None:
            raise ValueError("This attention layer asks for what only the UNet of another kind of model has.")
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            source = attn.norm_encoder_hidden_states(source)
        if getattr(attn, "fused_projections", False):
            if encoder_hidden_states is None:
                query, key, value = attn.to_qkv(hidden_states).chunk(3, -1)
            else:
                query = attn.to_q(hidden_states)
                key, value = attn.to_kv(source).chunk(2, -1)
        else:
            query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for tensor in (query, key, value))
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        if attn.norm_k is not None:
            k = attn.norm_k(k)
        output = attn.to_out[0](self._attend(q, k, v).transpose(1, 2).flatten(2))
        if attn.residual_connection:
            output = output + hidden_states
        factor = attn.rescale_output_factor
        scaled: torch.Tensor = output if factor == 1 else output / factor
        return scaled


def fuse_projections(unet: Any) -> None:
    """Fuse the query, key and value projections of each layer into one multiplication.

    The separate weights are deleted. Layers with a LoRA adapter stay as they are.
    """
    for module in unet.modules():
        if hasattr(module, "fuse_projections") and hasattr(module, "to_q"):
            if any(hasattr(layer, "base_layer") for layer in (module.to_q, module.to_k, module.to_v)):
                continue  # the fused weight would leave out the adapter of this layer
            with torch.no_grad():
                module.fuse_projections()
            unused = ("to_k", "to_v") if module.is_cross_attention else ("to_q", "to_k", "to_v")
            for name in unused:
                delattr(module, name)
