"""The images and cache places that a job's record names. Pure.

Records are read as plain JSON: a record of a newer version, or one that is damaged in part, names
its images too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from backends.blobs import is_blob_name
from cache.cache_key import result_pattern, tenant_scope
from store.packed_request import plain_json

PREVIEW: Final = "preview:"
"""The prefix of a record's fields that name previews."""

Record = Mapping[str, str]


def parsed(text: str | bytes | None) -> Any:
    """The value of a JSON document; None: it is damaged or absent."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def request_in(record: Record) -> Any:
    """The request of a record, packed or not; None: it is damaged."""
    try:
        return parsed(plain_json(record.get("request", "")))
    except ValueError:
        return None


def inner(document: Any, *path: str) -> Any:
    """The value at the path; None: there is none."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def names_in(result: Any) -> set[str]:
    """The names of the images in a result."""
    images = inner(result, "images")
    return _names_of(inner(image, "name") for image in images) if isinstance(images, list) else set()


def init_image_of(request: Any) -> set[str]:
    """The name of the init image of a request, if it has one."""
    return _names_of([inner(request, "init_image")])


def images_of(record: Record) -> set[str]:
    """The images that a record names: generated, previews, init image. Not those that its prompt
    mentions."""
    previews = (value for name, value in record.items() if name.startswith(PREVIEW))
    return names_in(parsed(record.get("result"))) | init_image_of(request_in(record)) | _names_of(previews)


def shared_address(record: Record) -> set[str]:
    """The address of the result in the cache that tenants share."""
    request = request_in(record)
    key, model, revision = record.get("key"), inner(request, "model"), inner(request, "model_revision")
    if not key or not isinstance(model, str):
        return set()
    scope = tenant_scope("", shared=True)
    return {result_pattern(key=key, scope=scope, model=model, revision=str(revision or ""))}


def _names_of(values: Iterable[Any]) -> set[str]:
    return {value for value in values if isinstance(value, str) and is_blob_name(value)}
