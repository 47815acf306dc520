"""The limits of a model on requests. Pure.

The API checks requests of clients, and the worker checks messages, by the same rules. A message may come
from an API that knew another revision of the model, or from no API at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from contracts.models import ModelSpec
from contracts.requests import GenerationRequest

Fault = tuple[str, str]
"""The wrong field, and a sentence that names it and its limit."""

MAX_LORA_SCALE: Final = 2
"""Above this, an adapter's change drowns the model."""

_SURROGATE = re.compile("[\ud800-\udfff]")
# Tab, line feed and carriage return are white space to the tokenizer. Other characters of Unicode's class Cc are a mistake.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def request_faults(
    request: GenerationRequest, spec: ModelSpec, *, max_images: int, max_text_chars: int
) -> Iterable[Fault]:
    """Everything in `request` that a model of `spec` cannot draw.

    No faults: the images stay within the memory and time that the model has announced. `max_images`
    limits the images of a job, `max_text_chars` the characters of each text.
    """
    if request.model != spec.name:
        yield "model", f"model must be {spec.name}."
    yield from text_faults("prompt", request.prompt, max_text_chars)
    yield from text_faults("negative_prompt", request.negative_prompt, max_text_chars)
    yield from side_faults("width", request.width, spec)
    yield from side_faults("height", request.height, spec)
    yield from pixel_faults(request.width, request.height, spec)
    faults = list(step_faults(request.num_inference_steps, spec))
    yield from faults
    yield from range_faults("guidance_scale", request.guidance_scale, 0, spec.max_guidance_scale)
    yield from range_faults("num_images", request.num_images, 1, max_images)
    if request.lora is not None:
        yield from lora_faults(request.lora.name, request.lora.scale, spec)
    if (request.init_image is None) is not (request.strength is None):
        yield "strength", "strength must come with init_image, and only then."
    elif request.init_image is not None and not spec.init_images:
        yield "init_image", f"init_image must be left out: {spec.name} starts from noise alone."
    elif not faults and not spec.step_counts.of(request.num_inference_steps, request.strength):
        yield "strength", "strength times num_inference_steps must be at least 1."


def text_faults(name: str, text: str, limit: int) -> Iterable[Fault]:
    """The faults of a text that may have `limit` characters."""
    if len(text) > limit:
        yield name, f"{name} must be at most {limit} characters long, not {len(text)}."
    elif _SURROGATE.search(text):
        yield name, f"{name} must be valid Unicode: it holds half of a surrogate pair."
    elif match := _CONTROL.search(text):
        code = ord(match[0])
        yield name, f"{name} must not hold control characters: U+{code:04X} at position {match.start()}."


def side_faults(name: str, value: int, spec: ModelSpec) -> Iterable[Fault]:
    """The faults of the width or the height, in pixels."""
    if not spec.min_size <= value <= spec.max_size:
        yield name, f"{name} must be between {spec.min_size} and {spec.max_size} pixels."
    elif value % spec.size_multiple:
        yield name, f"{name} must be a multiple of {spec.size_multiple}."


def pixel_faults(width: int, height: int, spec: ModelSpec) -> Iterable[Fault]:
    """The faults of width times height."""
    if width * height > spec.max_pixels:
        yield "width", f"width times height must be at most {spec.max_pixels} pixels, not {width * height}."


def step_faults(steps: int, spec: ModelSpec) -> Iterable[Fault]:
    """The faults of `num_inference_steps`: out of range, or a count that the model's solver cannot take."""
    faults = list(range_faults("num_inference_steps", steps, 1, spec.max_steps))
    if not faults and not spec.step_counts.of(steps):
        refused = ", ".join(map(str, spec.refused_steps))
        faults.append(
            (
                "num_inference_steps",
                f"num_inference_steps must be between {spec.min_steps} and {spec.max_steps}, and none of {refused}: "
                f"the solver of {spec.name} cannot take {steps}.",
            )
        )
    return faults


def lora_faults(name: str, scale: float | None, spec: ModelSpec) -> Iterable[Fault]:
    """The faults of an adapter's name and scale; the scale is not checked where it is None."""
    names = [lora.name for lora in spec.loras]
    if not names:
        yield "lora", f"lora must be left out: {spec.name} has no adapters."
    elif name not in names:
        yield "lora.name", f"lora.name must be one of the adapters of {spec.name}: {', '.join(names)}."
    if scale is not None:
        yield from range_faults("lora.scale", scale, 0, MAX_LORA_SCALE)


def range_faults(name: str, value: float, low: float, high: float) -> Iterable[Fault]:
    """The fault of a number that must be from `low` to `high`."""
    if not low <= value <= high:
        if low == high:
            yield name, f"{name} must be {low}."
            return
        yield (
            name,
            f"{name} must be between {low} and {high:g}."
            if isinstance(high, float)
            else (f"{name} must be between {low} and {high}."),
        )
