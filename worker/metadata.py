"""The generation parameters of an image as text in its file.

AUTOMATIC1111's web UI writes this format, and most tools read it. Its parser is
`parse_generation_parameters` in modules/infotext_utils.py of
https://github.com/AUTOMATIC1111/stable-diffusion-webui. The text is the prompt, then
`Negative prompt: ...` if there is one, then one line of `Name: value` pairs. PNG stores it under the
keyword `parameters`, JPEG and WebP as Exif's UserComment.
"""

from __future__ import annotations

import json
from typing import Final

from contracts.requests import GenerationRequest

KEYWORD: Final = "parameters"


def parameters(request: GenerationRequest, index: int, sampler: str = "", schedule_type: str = "") -> str:
    """The text for image `index` of the request, generated with this sampler and schedule.

    It has no `Model hash`. A1111 hashes a file with the whole model, and sites look models up by
    it.
    """
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    values = {
        "Steps": request.num_inference_steps,
        **({"Sampler": sampler} if sampler else {}),
        **({"Schedule type": schedule_type} if schedule_type else {}),
        "CFG scale": request.guidance_scale,
        "Seed": request.image_seed(index),
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
        **({"Denoising strength": request.strength} if request.strength is not None else {}),
        **({"Lora": request.lora.name, "Lora scale": request.lora.scale} if request.lora else {}),
        "Version": "Darkroom",
    }
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items()))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    # A1111's parser unquotes it as JSON.
    return json.dumps(value, ensure_ascii=False) if any(char in value for char in ',\n:"') else value
