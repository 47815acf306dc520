"""Every error that a user or an operator can meet, in one tree.

    DarkroomError
    ├── RequestError            the caller's fault, never retried
    │   ├── InvalidRequest      422  a field is wrong; `param` names it
    │   ├── Unauthenticated     401  no API key
    │   │   └── InvalidApiKey   401  unknown, or revoked
    │   ├── PermissionDenied    403  the key lacks a scope
    │   ├── HostNotAllowed      421  a `Host` that a server without keys does not allow
    │   ├── OriginNotAllowed    403  a page of another site called a server without keys
    │   ├── KeyNotFound         404  no API key of that id
    │   ├── QuotaExceeded       429  a limit of the key; `details.limit` names it
    │   ├── ContentBlocked      422  the policy does not allow it; `details.category` names the category
    │   ├── ContentPolicyViolation 400  the same for OpenAI's clients
    │   ├── IdempotencyKeyReuse 422  the same Idempotency-Key with another body
    │   ├── MalformedBody       400  not JSON at all
    │   ├── ModelNotFound       404
    │   ├── JobNotFound         404  unknown, or another tenant's
    │   ├── ImageNotFound       404
    │   ├── ReviewNotFound      404  no image of that name waits for a person, or did
    │   ├── ReviewDecided       409  people have decided otherwise
    │   ├── NothingToAppeal     409  the image is shown, or is gone for good
    │   ├── ContentUnderReview  400  for OpenAI's clients: a person will decide on the image
    │   ├── RouteNotFound       404
    │   ├── MethodNotAllowed    405
    │   ├── JobCanceled         409  canceled while a request waited for it
    │   ├── JobGone             410  older than the retention of job records
    │   ├── PayloadTooLarge     413
    │   ├── UnsupportedMediaType 415
    │   └── RangeNotSatisfiable 416  the range holds no byte of the image
    ├── UnavailableError        503  temporary: retry after `retry_after_s` seconds
    │   ├── BrokerUnavailable
    │   ├── RecordUnreadable    written by a newer version of the platform
    │   ├── StoreUnavailable
    │   │   ├── StoreFull           Redis is at its `maxmemory`, or near it
    │   │   └── BlobStoreUnavailable  the images' directory or bucket; a job may fail with it too
    │   │       └── BlobStoreFull     the directory or bucket is full
    │   ├── QueueFull
    │   ├── ModelUnavailable    no live worker serves the model
    │   ├── TooManyStreams      event streams; polling still works
    │   ├── ModerationUnavailable  a layer of moderation is away, and the policy fails closed
    │   ├── TooManyInitImages   init images that wait to be decoded
    │   └── JobExpired          passed its deadline while a request waited for it
    ├── InternalError           500
    ├── GenerationFailed        502  the engine failed while a request waited for the job
    └── GenerationError         why a job failed, kept in its record: `contracts.failures`

`code` is stable and meant for programs. `status` is the HTTP status. One handler in `api` maps both to answers.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DarkroomError(Exception):
    """Base of the tree.

    `message` is for people, `code` for programs. `param` names the field at fault, if there is one.
    `retry_after_s` is when a retry may succeed, in seconds.
    """

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
    """The caller's fault. Repeating the same request does not help."""

    code = "invalid_request"
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field of the request is wrong; `param` names it."""

    status = 422


class Unauthenticated(RequestError):
    """The request carries no API key.

    Its `code` differs from that of a wrong key, so a client knows whether it forgot or mistyped.
    """

    code = "missing_api_key"
    status = 401
    type = "authentication_error"


class InvalidApiKey(Unauthenticated):
    """The API key is unknown or revoked."""

    code = "invalid_api_key"


class PermissionDenied(RequestError):
    """The API key lacks the scope that the route needs."""

    code = "insufficient_scope"
    status = 403
    type = "permission_error"


class HostNotAllowed(RequestError):
    """The `Host` header names no allowed host of a server that runs without API keys."""

    code = "host_not_allowed"
    status = 421


class OriginNotAllowed(RequestError):
    """A web page of another site called a server that runs without API keys."""

    code = "origin_not_allowed"
    status = 403


class KeyNotFound(RequestError):
    """No API key has this id."""

    code = "key_not_found"
    status = 404


class QuotaExceeded(RequestError):
    """The API key has reached one of its limits; `details.limit` names it."""

    code = "quota_exceeded"
    status = 429
    type = "rate_limit_error"


class IdempotencyKeyReuse(InvalidRequest):
    """The same `Idempotency-Key` came with another request body."""

    code = "idempotency_key_reuse"


class ContentBlocked(RequestError):
    """The policy does not allow what the request asks for. `details.category` names the category alone."""

    code = "content_blocked"
    status = 422


class ContentPolicyViolation(RequestError):
    """As `ContentBlocked`, in the words of OpenAI's API."""

    code = "content_policy_violation"


class MalformedBody(RequestError):
    """The request body is not JSON."""

    code = "malformed_body"


class ModelNotFound(RequestError):
    """The platform knows no model of this name."""

    code = "model_not_found"
    status = 404


class JobNotFound(RequestError):
    """The job is unknown, or belongs to another tenant."""

    code = "job_not_found"
    status = 404


class ImageNotFound(RequestError):
    """The blob store has no image of this name."""

    code = "image_not_found"
    status = 404


class ReviewNotFound(RequestError):
    """No image of this name is or was held."""

    code = "review_not_found"
    status = 404


class ReviewDecided(RequestError):
    """People have decided otherwise on this image. `details.state` says how."""

    code = "review_decided"
    status = 409


class NothingToAppeal(RequestError):
    """There is no verdict that an appeal could change."""

    code = "nothing_to_appeal"
    status = 409


class ContentUnderReview(RequestError):
    """The image of an OpenAI request is held until a person has decided. `details.job_id` names the job."""

    code = "content_under_review"


class PictureNotIndexed(RequestError):
    """The search index has no such image of the caller."""

    code = "picture_not_indexed"
    status = 404


class SearchOff(RequestError):
    """The platform runs without a search."""

    code = "search_off"
    status = 404


class RouteNotFound(RequestError):
    """The API has no such path."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"
    status = 405


class JobCanceled(RequestError):
    """The job was canceled while a request waited for its result."""

    code = "job_canceled"
    status = 409


class JobGone(RequestError):
    """The job is older than the retention of job records."""

    code = "job_gone"
    status = 410


class PayloadTooLarge(RequestError):
    """The request body is larger than allowed."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The request body has a content type that the route does not accept."""

    code = "unsupported_media_type"
    status = 415


class RangeNotSatisfiable(RequestError):
    """The `Range` header names no byte of the image."""

    code = "range_not_satisfiable"
    status = 416


class UnavailableError(DarkroomError):
    """A temporary fault of the platform. Retry after `retry_after_s` seconds."""

    code = "unavailable"
    status = 503
    type = "unavailable_error"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 2.0, **rest: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **rest)


class BrokerUnavailable(UnavailableError):
    """The broker is away or slow, or has no queue for the message."""

    code = "broker_unavailable"


class StoreUnavailable(UnavailableError):
    """Redis is away or slow."""

    code = "store_unavailable"


class StoreFull(StoreUnavailable):
    """Redis answers but has no memory left. Nothing was recorded."""

    code = "store_full"

    def __init__(self, message: str, *, retry_after_s: float = 30.0, **rest: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **rest)


class RecordUnreadable(UnavailableError):
    """A newer version wrote the record. A process of that version can read it."""

    code = "record_unreadable"


class BlobStoreUnavailable(StoreUnavailable):
    """The directory or bucket of the images cannot be read or written."""

    code = "blob_store_unavailable"


class BlobStoreFull(BlobStoreUnavailable):
    """The directory or bucket of the images has no room."""

    code = "blob_store_full"


class SearchUnavailable(UnavailableError):
    """The search process is away, or its index is."""

    code = "search_unavailable"


class ModerationUnavailable(UnavailableError):
    """A layer of moderation cannot look, and the policy lets nothing pass without it."""

    code = "moderation_unavailable"


class QueueFull(UnavailableError):
    """Too many jobs wait for the model."""

    code = "queue_full"


class ModelUnavailable(UnavailableError):
    """No live worker serves the model."""

    code = "model_unavailable"


class TooManyStreams(UnavailableError):
    """Too many event streams are open. Polling still works."""

    code = "too_many_streams"


class TooManyInitImages(UnavailableError):
    """Too many init images wait to be decoded."""

    code = "too_many_init_images"


class JobExpired(UnavailableError):
    """The job passed its deadline while a request waited for its result."""

    code = "job_expired"


class InternalError(DarkroomError):
    """An unexpected error of the platform."""


class GenerationFailed(DarkroomError):
    """The job failed while a request waited for its result."""

    code = "generation_failed"
    status = 502
    type = "generation_error"


class QueueMisdeclared(Exception):
    """A queue exists on the broker with other arguments than this process declares.

    The process stops and names it.
    """


class SettingsError(Exception):
    """A setting is missing or malformed. The process stops and names the setting."""
