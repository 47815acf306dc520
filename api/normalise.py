"""From a client's request to the request that is computed: fills in defaults, checks every bound,
fixes the seed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from api.job_request import JobRequest
from cache.cache_key import derived_seed, normalise_text
from contracts.errors import InvalidRequest
from contracts.models import ModelSpec
from contracts.requests import (
    DEFAULT_QUALITY,
    MAX_JPEG_TEXT_BYTES,
    MAX_PREVIEWS,
    MAX_SEED,
    GenerationRequest,
    Lora,
    Similar,
    steps_taken,
)
from contracts.settings import ApiSettings
from scheduler.bounds import (
    Fault,
    lora_faults,
    pixel_faults,
    range_faults,
    side_faults,
    step_faults,
    text_faults,
)

MAX_MODEL_CHARS: Final = 200
"""The longest name of a model in a request."""
MIN_TIMEOUT_S: Final = 0.1
"""The shortest `timeout_seconds`."""
DEFAULT_STRENGTH: Final = 0.8
"""`strength` where a request with an init image gives none."""


def normalise(
    body: JobRequest,
    spec: ModelSpec,
    settings: ApiSettings,
    *,
    scope: str,
    random_seed: Callable[[], int],
    init_image: str | None = None,
) -> GenerationRequest:
    """The request to compute. The prompt stays as it was sent; the cache key normalises its own
    copy.

    Without a seed, it is derived from the rest of the request and the tenant `scope`. With
    `"random"` it is `random_seed()`. `init_image` is the name of the init image in the blob store,
    once it is known. Raises `InvalidRequest` with every fault in its details.
    """
    width = spec.default_width if body.width is None else body.width
    height = spec.default_height if body.height is None else body.height
    strength = (
        None if body.init_image is None else DEFAULT_STRENGTH if body.strength is None else body.strength
    )
    steps = _default_steps(spec, strength) if body.num_inference_steps is None else body.num_inference_steps
    guidance = spec.default_guidance_scale if body.guidance_scale is None else body.guidance_scale
    images = 1 if body.num_images is None else body.num_images
    negative = body.negative_prompt or ""

    faults: list[Fault] = [
        *_prompt_faults("prompt", body.prompt, settings.max_prompt_chars, required=True),
        *_prompt_faults("negative_prompt", negative, settings.max_prompt_chars, required=False),
        *side_faults("width", width, spec),
        *side_faults("height", height, spec),
        *step_faults(steps, spec),
        *range_faults("guidance_scale", guidance, 0, spec.max_guidance_scale),
        *range_faults("num_images", images, 1, max_images(spec, settings)),
    ]
    if body.timeout_seconds is not None:
        faults += range_faults("timeout_seconds", body.timeout_seconds, MIN_TIMEOUT_S, settings.job_ttl_s)
    file = body.output_format or settings.default_output_format
    quality = DEFAULT_QUALITY if body.output_quality is None else body.output_quality
    faults += range_faults("output_quality", quality, 1, 100)
    if body.lossless and file == "jpeg":
        faults.append(("lossless", "lossless must be false for jpeg, which always loses; png and webp can."))
    faults += _text_room_faults(body, file)
    previews = body.previews or 0
    faults += range_faults("previews", previews, 0, MAX_PREVIEWS)
    if body.lora is not None:
        faults += lora_faults(body.lora.name, body.lora.scale, spec)
    faults += _start_faults(body, spec, steps, strength)
    faults += _similar_faults(body, settings)
    if isinstance(body.seed, int):
        faults += range_faults("seed", body.seed, 0, MAX_SEED)
    if not faults:
        faults += pixel_faults(width, height, spec)
    denoising = spec.step_counts.of(steps, strength)
    cost = 0.0 if faults else width * height * denoising * images / 1e6
    if cost > settings.max_cost:
        faults.append(
            (
                "num_inference_steps",
                f"width times height times denoising steps times num_images must be at most max_cost, "
                f"{settings.max_cost:g} megapixel-steps, not {cost:g}: {steps} num_inference_steps are {denoising}.",
            )
        )
    if faults:
        raise invalid(faults)

    request = GenerationRequest(
        model=spec.name,
        prompt=body.prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance + 0.0,  # one zero, not two
        seed=body.seed if isinstance(body.seed, int) else 0,
        num_images=images,
        output_format=file,
        # Where the quality is not used, it gets one value, so that equal files have equal cache keys.
        output_quality=DEFAULT_QUALITY if file == "png" or body.lossless else quality,
        lossless=bool(body.lossless) and file == "webp",
        embed_metadata=bool(body.embed_metadata),
        cache="use" if body.cache in (None, "similar") else body.cache,
        similar=_similar(body, settings),
        model_revision=spec.revision,
        lora=_lora(body),
        init_image=init_image,
        strength=None if strength is None else float(strength),
        previews=previews,
        denoising_steps=None if denoising == steps_taken(steps, strength) else denoising,
    )
    if body.seed is None:
        return request.model_copy(update={"seed": derived_seed(request, spec, scope)})
    if body.seed == "random":
        return request.model_copy(update={"seed": random_seed()})
    return request


def _default_steps(spec: ModelSpec, strength: float | None) -> int:
    """The model's default steps, or the least number above it at which `strength` leaves a step to take."""
    if strength is None or not 0 < strength <= 1:
        return spec.default_steps
    enough = range(spec.default_steps, spec.max_steps + 1)
    return next((steps for steps in enough if spec.step_counts.of(steps, strength)), spec.max_steps)


def _start_faults(body: JobRequest, spec: ModelSpec, steps: int, strength: float | None) -> Iterable[Fault]:
    if strength is None:
        if body.strength is not None:
            yield "strength", "strength must be left out: there is no init_image that it could be of."
        return
    if not spec.init_images:
        why = "takes one step, so it starts" if spec.max_steps == 1 else "starts"
        yield (
            "init_image",
            f"init_image must be left out: {spec.name} {why} from noise alone. GET /v1/models tells by init_images which "
            "models start from an image.",
        )
        return
    if not 0 < strength <= 1:
        yield "strength", "strength must be above 0 and at most 1."
    elif 1 <= steps <= spec.max_steps and steps_taken(steps, strength) < 1:
        yield _none_left(body, spec, strength)


def _none_left(body: JobRequest, spec: ModelSpec, strength: float) -> Fault:
    """The fault that no step is left to take.

    It names the fields that were sent, with the numbers as they were sent.
    """
    sent = f"{strength!r}" if body.strength is not None else f"{strength!r} where it is left out"
    least = next((steps for steps in range(1, spec.max_steps + 1) if steps_taken(steps, strength)), None)
    if least is None:
        return (
            "strength",
            f"strength must be at least 1/{spec.max_steps}: of the steps of {spec.name}, {spec.max_steps} at most, one must be left; "
            f"it is {sent}.",
        )
    if body.strength is None:
        return (
            "num_inference_steps",
            f"num_inference_steps must be at least {least} with an init_image: one step must be left, and strength is {sent}.",
        )
    return (
        "strength",
        f"strength times num_inference_steps must be at least 1, not {sent} times {body.num_inference_steps}.",
    )


def _similar_faults(body: JobRequest, settings: ApiSettings) -> Iterable[Fault]:
    if body.cache != "similar":
        if body.similarity is not None:
            yield "similarity", 'similarity must be left out unless cache is "similar".'
        return
    floor = settings.similar_floor
    if floor is None or not settings.search_url:
        yield (
            "cache",
            "cache must be use, refresh or off: this platform compares no prompts. An operator sets DARKROOM_SIMILAR_FLOOR, and "
            "runs a search.",
        )
    elif body.similarity is not None and not floor <= body.similarity <= 1:
        yield (
            "similarity",
            f"similarity must be from {floor:g} to 1, not {body.similarity:g}: below, prompts of another meaning pass.",
        )


def _similar(body: JobRequest, settings: ApiSettings) -> Similar | None:
    if body.cache != "similar" or settings.similar_floor is None:
        return None
    floor = settings.similar_floor if body.similarity is None else body.similarity
    return Similar(floor=floor, any_seed=not isinstance(body.seed, int))


def _text_room_faults(body: JobRequest, file: str) -> Iterable[Fault]:
    if not body.embed_metadata or file != "jpeg":
        return
    texts = body.prompt + (body.negative_prompt or "")
    size = len(texts.encode("utf-16-be", "surrogatepass"))
    if size > MAX_JPEG_TEXT_BYTES:
        yield (
            "embed_metadata",
            f"embed_metadata must be false for a jpeg with such long prompts: it holds {MAX_JPEG_TEXT_BYTES} bytes of them in "
            f"UTF-16, not {size}. png and webp hold more.",
        )


def _lora(body: JobRequest) -> Lora | None:
    """The adapter; None at a scale of 0. Such a request then equals one without an adapter."""
    if body.lora is None or body.lora.scale == 0:
        return None
    return Lora(name=body.lora.name, scale=1.0 if body.lora.scale is None else float(body.lora.scale))


def max_images(spec: ModelSpec, settings: ApiSettings) -> int:
    """The most images of one job. A job is never larger than a batch."""
    return min(settings.max_images_per_job, spec.max_batch)


def checked_model_name(name: str) -> str:
    """`name`, checked so that it can be looked up and repeated in an answer. Raises `InvalidRequest`."""
    faults = list(text_faults("model", name, MAX_MODEL_CHARS))
    if faults:
        raise invalid(faults)
    return name


def invalid(faults: Iterable[Fault]) -> InvalidRequest:
    """The error for one or more `faults`. Its message is that of the first; its details have all."""
    details: list[dict[str, Any]] = [{"param": param, "message": message} for param, message in faults]
    return InvalidRequest(details[0]["message"], param=details[0]["param"], details={"faults": details})


def _prompt_faults(name: str, text: str, limit: int, *, required: bool) -> Iterable[Fault]:
    faults = list(text_faults(name, text, limit))
    if not faults and required and not normalise_text(text):
        faults.append((name, f"{name} must not be empty."))
    return faults
