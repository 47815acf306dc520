"""The OpenAPI document: the framework's document of the routes, completed.

Added here, for all operations: the limits of the models that are served now, the codes of each
error with an example, the header that names a request, and the links from a submitted job to its
other operations. Pure: dictionaries in and out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

from api.init_image import longest_text
from api.normalise import MIN_TIMEOUT_S, max_images
from contracts.errors import DarkroomError, InvalidRequest
from contracts.failures import GenerationError
from contracts.models import ModelSpec, ServedModel
from contracts.requests import MAX_PREVIEWS, MAX_SEED
from contracts.settings import ApiSettings
from contracts.webhooks import EVENTS
from scheduler.bounds import MAX_LORA_SCALE

Schema = dict[str, Any]
"""A JSON schema, or another part of the document."""

JOB_ID_PATTERN: Final = "^job_[0-9a-hjkmnp-tv-z]{26}[0-9a-f]$"
_CONTROL: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_TEXT: Final = f"^[^{_CONTROL}]*$"
_SAYING: Final = rf"^[^{_CONTROL}]*[^{_CONTROL}\s][^{_CONTROL}]*$"
_RECEIVER: Final = r"^https://([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.){1,8}[a-z]{2,8}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~=&?/-]*)?$"
_REQUEST_ID: Final = {
    "X-Request-ID": {"description": "Names the request in our logs.", "schema": {"type": "string"}}
}
_EVENT: Final = {
    "type": "object",
    "description": "One event of the stream.",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "description": "JSON."},
        "id": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "When to come again, in seconds.", "schema": {"type": "integer"}}
}


def complete(document: Schema, models: Sequence[ServedModel], settings: ApiSettings) -> Schema:
    """A completed copy of the framework's `document`, with the limits of `models`."""
    document = copy.deepcopy(document)
    schemas: Schema = document.setdefault("components", {}).setdefault("schemas", {})
    for operation in _operations(document):
        _hoist(operation, schemas)
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "header":
                parameter["schema"] = _header(parameter["schema"])
        if settings.anonymous and "security" in operation:
            operation["security"] = [{}, *operation["security"]]
        for status, answer in operation.get("responses", {}).items():
            answer.setdefault("headers", {}).update(_REQUEST_ID)
            if "text/event-stream" in answer.get("content", {}):
                answer["content"]["text/event-stream"]["schema"] = _EVENT
            if status.isdigit() and int(status) >= 400:
                _explain(answer, int(status))
    for schema in schemas.values():
        fields = schema.get("properties", {})
        if schema.get("additionalProperties") is False and "num_inference_steps" in fields:
            _bound(schema, models, settings)
    webhook = schemas.get("WebhookRequest", {}).get("properties", {})
    if webhook:
        webhook["url"] |= {"format": "uri", "maxLength": 2048, "pattern": _RECEIVER}
        _branch(webhook["events"], "array").update(minItems=1, items={"type": "string", "enum": list(EVENTS)})
    lora = schemas.get("LoraRequest", {}).get("properties", {})
    if lora:
        _branch(lora["scale"], "number").update(minimum=0, maximum=MAX_LORA_SCALE)
        lora["name"]["enum"] = sorted({adapter.name for served in models for adapter in served.spec.loras})
    _link(document)
    return document


def _operations(document: Schema) -> Iterator[Schema]:
    for path in document.get("paths", {}).values():
        yield from path.values()


def _hoist(operation: Schema, schemas: Schema) -> None:
    """Move the definitions inside a body's schema into the document's schemas.

    One reference then works everywhere.
    """
    for media in operation.get("requestBody", {}).get("content", {}).values():
        media["schema"] = _lifted(media.get("schema", {}), schemas)


def _lifted(node: Any, schemas: Schema) -> Any:
    """`node` with references in place of its definitions and named objects, which go into `schemas`."""
    if isinstance(node, list):
        return [_lifted(item, schemas) for item in node]
    if not isinstance(node, dict):
        return node
    for name, definition in node.get("$defs", {}).items():
        lifted = _lifted(definition, schemas)
        if name not in schemas:  # a named object is there already
            schemas[name] = lifted
    result = {key: _lifted(value, schemas) for key, value in node.items() if key != "$defs"}
    if isinstance(reference := result.get("$ref"), str):
        result["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
    if "properties" in result and isinstance(name := result.get("title"), str) and name.isidentifier():
        schemas[name] = result
        return {"$ref": f"#/components/schemas/{name}"}
    return result


def _header(schema: Schema) -> Schema:
    # Every header is a string on the wire. Only the framework makes a list of a repeated one.
    text = _branch(schema, "string")
    return text if text.get("type") == "string" else {"type": "string"}


def _explain(answer: Schema, status: int) -> None:
    kinds = [kind for kind in _tree(DarkroomError) if kind.status == status]
    if status in (429, 503):
        answer["headers"].update(_RETRY_AFTER)
    content = answer.get("content", {}).get("application/json")
    if content is None or not kinds:
        return
    content["examples"] = {
        kind.code: {"value": {"error": _example(kind)}} for kind in sorted(kinds, key=lambda k: k.code)
    }


def _tree(kind: type[DarkroomError]) -> Iterator[type[DarkroomError]]:
    for subclass in kind.__subclasses__():
        if not issubclass(subclass, GenerationError):
            yield subclass
            yield from _tree(subclass)


def _example(kind: type[DarkroomError]) -> Schema:
    first = (kind.__doc__ or kind.code.replace("_", " ").capitalize()).strip().splitlines()[0].rstrip(".")
    return {
        "code": kind.code,
        "message": f"{first}.",
        "type": kind.type,
        "param": "width" if kind is InvalidRequest else None,
        "request_id": "req_4f1c0e0d8a2b4b6f9a3c5d7e",
        "details": None,
    }


def _bound(schema: Schema, models: Sequence[ServedModel], settings: ApiSettings) -> None:
    """Set the limits of fields on this server now.

    Where models differ, the widest limits are used; `GET /v1/models` has those of each model.
    """
    fields, limit = schema["properties"], settings.max_prompt_chars
    fields["prompt"] |= {"minLength": 1, "maxLength": limit, "pattern": _SAYING}
    _branch(fields["negative_prompt"], "string").update(maxLength=limit, pattern=_TEXT)
    _branch(fields["seed"], "integer").update(minimum=0, maximum=MAX_SEED)
    for name, low, high in (
        ("output_quality", 1, 100),
        ("output_compression", 0, 100),
        ("previews", 0, MAX_PREVIEWS),
        ("partial_images", 0, MAX_PREVIEWS),
    ):
        if name in fields:
            _branch(fields[name], "integer").update(minimum=low, maximum=high)
    if "lossless" in fields:
        schema["not"] = {
            "required": ["lossless", "output_format"],
            "properties": {"lossless": {"const": True}, "output_format": {"const": "jpeg"}},
        }
    if "timeout_seconds" in fields:
        _branch(fields["timeout_seconds"], "number").update(minimum=MIN_TIMEOUT_S, maximum=settings.job_ttl_s)
    specs = [served.spec for served in models]
    if not specs:
        return
    _branch(fields["model"], "string")["enum"] = [
        *(spec.name for spec in specs),
        *(alias for alias, model in settings.aliases.items() if model in {spec.name for spec in specs}),
    ]
    if "size" in fields:
        _branch(fields["size"], "string")["pattern"] = _sizes(specs)
    limits = {
        side: {
            "minimum": min(spec.min_size for spec in specs),
            "maximum": max(spec.max_size for spec in specs),
            "multipleOf": min(spec.size_multiple for spec in specs),
        }
        for side in ("width", "height")
    }
    if "init_image" in fields:
        _bound_start(fields, specs, settings)
    if "lora" in fields and not any(spec.loras for spec in specs):
        fields["lora"] = {"type": "null", "description": "No model that is served has adapters."}
    images = max(max_images(spec, settings) for spec in specs)
    limits |= {
        "num_inference_steps": {"minimum": 1, "maximum": max(spec.max_steps for spec in specs)},
        "num_images": {"minimum": 1, "maximum": images},
        "n": {"minimum": 1, "maximum": images},
    }
    for name in limits.keys() & fields.keys():
        _branch(fields[name], "integer").update(limits[name])
    guidance = max(spec.max_guidance_scale for spec in specs)
    _branch(fields["guidance_scale"], "number").update(minimum=0, maximum=guidance)


def _bound_start(fields: Schema, specs: Sequence[ModelSpec], settings: ApiSettings) -> None:
    if not any(spec.init_images for spec in specs):
        none = {"type": "null", "description": "No model that is served starts from an image."}
        fields |= {"init_image": none, "strength": none}
        return
    longest = longest_text(settings.max_init_image_bytes)
    _branch(fields["init_image"], "string").update(maxLength=longest, contentEncoding="base64")
    _branch(fields["strength"], "number").update(exclusiveMinimum=0, maximum=1)


def _sizes(specs: Sequence[ModelSpec]) -> str:
    """The sizes that some model can draw, as a pattern for `WIDTHxHEIGHT` or `auto`."""
    sides = {
        side
        for spec in specs
        for side in range(spec.min_size, spec.max_size + 1)
        if not side % spec.size_multiple
    }
    side = "|".join(map(str, sorted(sides)))
    return f"^(auto|({side})x({side}))$"


def _branch(field: Schema, kind: str) -> Schema:
    """The part of a field's schema for values of the JSON type `kind`; the whole schema if it has
    no parts."""
    for branch in field.get("anyOf", ()):
        if branch.get("type") == kind:
            part: Schema = branch
            return part
    return field


def _link(document: Schema) -> None:
    paths = document.get("paths", {})
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"job_id": "$response.body#/id"},
        }
        for path, operations in paths.items()
        if path.startswith("/v1/jobs/{job_id}")
        for operation in operations.values()
    }
    for status in ("200", "202"):
        answer = paths.get("/v1/jobs", {}).get("post", {}).get("responses", {}).get(status)
        if answer is not None:
            answer["links"] = links
