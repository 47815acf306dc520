"""The warnings of a request: the parts of it that the model does not read. Pure.

Warnings are not errors: the request is computed as it is. They are derived from the request whenever
a job is shown. They are never stored with a result, because another request may share that result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from contracts.requests import GenerationRequest

NOBODY: Final = "No worker serves this model now: the job waits for one to start, and expires if none does."
"""The warning of a job whose model has no live worker."""
HEADER: Final = "X-Warnings"
"""A header for answers without a field for warnings: a JSON array of strings, in ASCII."""

# The weights of A1111's web UI: "(a red apple:1.5)" and "((a red apple))". "(16:9)" and "(12:30)"
# hold no words.
_WEIGHT: Final = re.compile(r"\([^()]*[^\W\d][^()]*:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\(\([^()]+\)\)")
_ADAPTER: Final = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:", re.IGNORECASE)


def advice(request: GenerationRequest) -> Iterator[str]:
    """One sentence for each part of `request` that has no effect: why, and what to do."""
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
    """The header `HEADER` with `warnings`; no header if there are none."""
    sentences = list(warnings)
    return {HEADER: json.dumps(sentences)} if sentences else {}
