"""Every error that a user or an operator can meet, in one tree.

    DarkroomError
    ├── RequestError            the caller's fault, never retried
    │   ├── InvalidRequest      422  a field is wrong; `param` names it
    │   ├── Unauthenticated     401  no API key
    │   │   └── InvalidApiKey   401  unknown, or revoked
    │   ├── PermissionDenied    403  the key lacks a scope
    │   ├── HostNotAllowed      421  a name that a server without keys does not go by
    │   ├── OriginNotAllowed    403  a page of another site, at a server without keys
    │   ├── KeyNotFound         404  no API key of that id
    │   ├── QuotaExceeded       429  a limit of the key; `details.limit` names it
    │   ├── IdempotencyKeyReuse 422  the same Idempotency-Key with another body
    │   ├── MalformedBody       400  not JSON at all
    │   ├── ModelNotFound       404
    │   ├── JobNotFound         404  unknown, or another tenant's
    │   ├── ImageNotFound       404
    │   ├── RouteNotFound       404
    │   ├── MethodNotAllowed    405
    │   ├── JobCanceled         409  while its answer was waited for
    │   ├── JobGone             410  older than the store keeps
    │   ├── PayloadTooLarge     413
    │   ├── UnsupportedMediaType 415
    │   └── RangeNotSatisfiable 416  no byte of the picture lies in the range
    ├── UnavailableError        503  ours, and passing: `retry_after_s` says when to come again
    │   ├── BrokerUnavailable
    │   ├── RecordUnreadable    written by a newer version; a process of that version can read it
    │   ├── StoreUnavailable
    │   │   ├── StoreFull           Redis is at its `maxmemory`, or near it
    │   │   └── BlobStoreUnavailable  the pictures' directory or bucket; also a job's failure
    │   │       └── BlobStoreFull     it has no room
    │   ├── QueueFull
    │   ├── ModelUnavailable    no live worker serves the model
    │   ├── TooManyStreams      of events; polling works as ever
    │   ├── TooManyInitImages   wait to be decoded
    │   └── JobExpired          not done in time, while its answer was waited for
    ├── InternalError           500
    ├── GenerationFailed        502  the engine failed at it, while its answer was waited for
    └── GenerationError         a job's own failure, kept in its record: `contracts.failures`

`code` is stable and meant for programs; `status` is the HTTP status; one handler in `api` maps them.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DarkroomError(Exception):
    """Base of the tree. `message` is for people; `param` names the field at fault, if one is."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details
        self.retry_after_s = retry_after_s


class RequestError(DarkroomError):
    code = "invalid_request"
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    status = 422


class Unauthenticated(RequestError):
    """`code` tells no key from a wrong one, so that a client knows whether it forgot or mistyped."""

    code = "missing_api_key"
    status = 401
    type = "authentication_error"


class InvalidApiKey(Unauthenticated):
    code = "invalid_api_key"


class PermissionDenied(RequestError):
    code = "insufficient_scope"
    status = 403
    type = "permission_error"


class HostNotAllowed(RequestError):
    code = "host_not_allowed"
    status = 421


class OriginNotAllowed(RequestError):
    code = "origin_not_allowed"
    status = 403


class KeyNotFound(RequestError):
    code = "key_not_found"
    status = 404


class QuotaExceeded(RequestError):
    code = "quota_exceeded"
    status = 429
    type = "rate_limit_error"


class IdempotencyKeyReuse(InvalidRequest):
    code = "idempotency_key_reuse"


class MalformedBody(RequestError):
    code = "malformed_body"


class ModelNotFound(RequestError):
    code = "model_not_found"
    status = 404


class JobNotFound(RequestError):
    code = "job_not_found"
    status = 404


class ImageNotFound(RequestError):
    code = "image_not_found"
    status = 404


class RouteNotFound(RequestError):
    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    status = 405


class JobCanceled(RequestError):
    code = "job_canceled"
    status = 409


class JobGone(RequestError):
    code = "job_gone"
    status = 410


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415


class RangeNotSatisfiable(RequestError):
    code = "range_not_satisfiable"
    status = 416


class UnavailableError(DarkroomError):
    code = "unavailable"
    status = 503
    type = "unavailable_error"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 2.0, **rest: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **rest)


class BrokerUnavailable(UnavailableError):
    code = "broker_unavailable"


class StoreUnavailable(UnavailableError):
    code = "store_unavailable"


class StoreFull(StoreUnavailable):
    """Redis answers, and has no room for more. Nothing was recorded."""

    code = "store_full"

    def __init__(self, message: str, *, retry_after_s: float = 30.0, **rest: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **rest)


class RecordUnreadable(UnavailableError):
    """Another version wrote it; a process of that version can answer."""

    code = "record_unreadable"


class BlobStoreUnavailable(StoreUnavailable):
    code = "blob_store_unavailable"


class BlobStoreFull(BlobStoreUnavailable):
    code = "blob_store_full"


class QueueFull(UnavailableError):
    code = "queue_full"


class ModelUnavailable(UnavailableError):
    code = "model_unavailable"


class TooManyStreams(UnavailableError):
    code = "too_many_streams"


class TooManyInitImages(UnavailableError):
    code = "too_many_init_images"


class JobExpired(UnavailableError):
    code = "job_expired"


class InternalError(DarkroomError):
    pass


class GenerationFailed(DarkroomError):
    code = "generation_failed"
    status = 502
    type = "generation_error"


class QueueMisdeclared(Exception):
    """A queue exists on the broker with other arguments than this process declares; the process stops and says which."""


class SettingsError(Exception):
    """A setting is missing or malformed; the process stops with the setting's name."""
