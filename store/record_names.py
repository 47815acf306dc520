"""What a job's record names: pictures, and places in the cache of results. Read as plain JSON, for a record of a newer version, and one
that is damaged in part, name theirs too. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from backends.blobs import is_blob_name
from cache.cache_key import result_pattern, tenant_scope
from store.packed_request import plain_json

PREVIEW: Final = "preview:"
"""How a record's fields begin that name a picture in the making."""

Record = Mapping[str, str]


def parsed(text: str | bytes | None) -> Any:
    """What a document holds; None for one that is damaged, or is not there."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def request_in(record: Record) -> Any:
    """The request of a record, packed or not; None for one that is damaged."""
    try:
        return parsed(plain_json(record.get("request", "")))
    except ValueError:
        return None


def inner(document: Any, *path: str) -> Any:
    """What lies at the path; None where nothing does."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def names_in(result: Any) -> set[str]:
    """The pictures that a result names."""
    images = inner(result, "images")
    return _names_of(inner(image, "name") for image in images) if isinstance(images, list) else set()


def start_of(request: Any) -> set[str]:
    """The picture that a request starts from, if it does."""
    return _names_of([inner(request, "init_image")])


def pictures_of(record: Record) -> set[str]:
    """The pictures that a job's record names: drawn, shown on the way, started from. Not what its prompt says."""
    previews = (value for name, value in record.items() if name.startswith(PREVIEW))
    return names_in(parsed(record.get("result"))) | start_of(request_in(record)) | _names_of(previews)


def shared_address(record: Record) -> set[str]:
    """Where the result lies, where tenants share theirs."""
    request = request_in(record)
    key, model, revision = record.get("key"), inner(request, "model"), inner(request, "model_revision")
    if not key or not isinstance(model, str):
        return set()
    scope = tenant_scope("", shared=True)
    return {result_pattern(key=key, scope=scope, model=model, revision=str(revision or ""))}


def _names_of(values: Iterable[Any]) -> set[str]:
    return {value for value in values if isinstance(value, str) and is_blob_name(value)}
