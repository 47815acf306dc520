"""What a signed image says of itself, as a C2PA manifest. Pure.

Terms are those of the C2PA specification 2.2, section "Actions", and of the IPTC's digital source types.
"""

from __future__ import annotations

from typing import Any, Final

from contracts.requests import GenerationRequest

SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DRAWN: Final = SOURCE_TYPES + "trainedAlgorithmicMedia"
"""A model made all of it."""
CHANGED: Final = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
"""A model changed an image that the owner had sent."""
GENERATOR: Final = "Darkroom"
LORA: Final = "darkroom.lora"
PROMPT: Final = "darkroom.prompt"
NEGATIVE_PROMPT: Final = "darkroom.negative_prompt"


def manifest(request: GenerationRequest, version: str, *, with_prompt: bool) -> dict[str, Any]:
    """The manifest of an image of the request, drawn by the version of Darkroom.

    It names the model, its revision and the adapter. It holds the prompts only `with_prompt`.
    """
    agent: dict[str, Any] = {"name": request.model}
    if request.model_revision:
        agent["version"] = request.model_revision
    parameters: dict[str, Any] = {}
    if request.lora is not None:
        parameters[LORA] = request.lora.name
    if with_prompt:
        parameters[PROMPT] = request.prompt
        if request.negative_prompt:
            parameters[NEGATIVE_PROMPT] = request.negative_prompt
    return created(version, agent, DRAWN if request.init_image is None else CHANGED, parameters)


def created(
    version: str, agent: dict[str, Any], source_type: str, parameters: dict[str, Any]
) -> dict[str, Any]:
    """The manifest of an image that `agent` created. Its first action must be that it was created or opened."""
    action: dict[str, Any] = {
        "action": "c2pa.created",
        "digitalSourceType": source_type,
        "softwareAgent": agent,
        **({"parameters": parameters} if parameters else {}),
    }
    return {
        "claim_generator_info": [{"name": GENERATOR, "version": version}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
