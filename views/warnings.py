"""The warnings of a request: what it asks for and the model will not read. Pure.

They are no errors: the request is drawn as it is. They are worked out from the request whenever a job is shown and never
stored, because a result may belong to another request with the same pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from contracts.requests import GenerationRequest

NOBODY: Final = "No worker serves this model now: the job waits for one to start, and expires if none does."
HEADER: Final = "X-Warnings"
"""Where an answer has no field for warnings: a JSON array of strings, in ASCII."""

# As A1111's web UI has it: "(a red apple:1.5)" and "((a red apple))". "(16:9)" and "(12:30)" hold no words.
_WEIGHT: Final = re.compile(r"\([^()]*[^\W\d][^()]*:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\(\([^()]+\)\)")
_ADAPTER: Final = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:", re.IGNORECASE)


def advice(request: GenerationRequest) -> Iterator[str]:
    """Each thing in `request` that has no effect, in a sentence that says why and what to do."""
    texts = {"prompt": request.prompt}
    if request.guidance_scale > 1:
        texts["negative_prompt"] = request.negative_prompt
    elif request.negative_prompt.strip():
        yield (
            f"negative_prompt is not read: guidance_scale is {request.guidance_scale:g}, and only above 1 does the "
            "model look at what it should not show."
        )
    for name, text in texts.items():
        if _WEIGHT.search(text):
            yield f"{name} holds weights such as (x:1.5) or ((x)), which are read as plain letters."
        if _ADAPTER.search(text):
            yield f"{name} holds a tag such as <lora:x:1>, which is read as plain letters: name an adapter in lora."


def header(warnings: Iterable[str]) -> dict[str, str]:
    """`HEADER` with these warnings; nothing where there are none."""
    listed = list(warnings)
    return {HEADER: json.dumps(listed)} if listed else {}
