"""The documentation of the headers and the body of the job routes, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Header

from api.auth import TENANT_HEADER
from api.idempotency import MAX_KEY_CHARS, REPLAYED
from api.job_request import JobRequest
from contracts.jobs import CacheStatus

Prefer = Annotated[
    list[str] | None,
    Header(
        description="`wait=N`: hold the answer up to N seconds for the job to end (RFC 7240).",
        examples=["wait=30"],
    ),
]

IDEMPOTENCY_KEY: Final = (
    "For a day, the same key with the same body is the same job, and with another body an error."
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY_CHARS,
        description=IDEMPOTENCY_KEY,
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": JobRequest.model_json_schema()}},
    },
    "security": [{"bearer": []}, {"header": []}],
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "`wait=N`: hold the answer up to N seconds for the job to end (RFC 7240).",
            "example": "wait=30",
        },
        {
            "name": "Accept",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "The format of the images, if the body names none.",
            "example": "image/webp",
        },
        {
            "name": "idempotency-key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
            "description": IDEMPOTENCY_KEY,
        },
    ],
}
APPLIED = {"Preference-Applied": {"description": "The wait that was honoured.", "schema": {"type": "string"}}}
AGAIN = {"Retry-After": {"description": "When to ask again, in seconds.", "schema": {"type": "integer"}}}
CACHE = {
    "X-Cache": {
        "description": "How the cache answered the job.",
        "schema": {"type": "string", "enum": [*(status.value for status in CacheStatus), "similar"]},
    },
    "X-Cache-Score": {
        "description": "Of a similar answer: the similarity of the two prompts.",
        "schema": {"type": "number"},
    },
    "X-Cache-Prompt": {
        "description": "Of a similar answer: the prompt that was drawn, percent-encoded, its first 300 characters.",
        "schema": {"type": "string"},
    },
}
TENANT = {
    TENANT_HEADER: {
        "description": "The tenant of the job, if an administrator asks for a job of another tenant.",
        "schema": {"type": "string"},
    }
}
LOCATION = {
    "Location": {"description": "The job.", "schema": {"type": "string"}},
    "X-Cache-Key": {"description": "The key of its result in the cache.", "schema": {"type": "string"}},
    REPLAYED: {
        "description": "`true`: this Idempotency-Key was used before, and this is the job of that request.",
        "schema": {"type": "string"},
    },
}
