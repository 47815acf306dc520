"""The parameters of a picture as text inside its file, as AUTOMATIC1111's web UI writes and most tools read them.

The form is the one that its reader parses (`parse_generation_parameters` in modules/infotext_utils.py of
https://github.com/AUTOMATIC1111/stable-diffusion-webui): the prompt, then `Negative prompt: ...` where there is one, then one line of
`Name: value` pairs. PNG holds it as the text `parameters`, JPEG and WebP as Exif's UserComment.
"""

from __future__ import annotations

import json
from typing import Final

from contracts.requests import GenerationRequest

KEYWORD: Final = "parameters"


def parameters(request: GenerationRequest, index: int, sampler: str = "", schedule_type: str = "") -> str:
    """The text for picture `index` of the request, drawn by the `sampler` of that name. There is no `Model hash`: A1111's is
    of a file that holds the whole model, and sites look models up by it."""
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
    # As the reader unquotes it.
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',\n:"') else value
