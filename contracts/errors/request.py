"""Errors that are the caller's fault. The same request is never retried."""

from __future__ import annotations

from contracts.errors.base import DarkroomError


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


class SessionEnded(Unauthenticated):
    """The person was signed in, and is not any more."""

    code = "session_ended"


class SignInRefused(RequestError):
    """A person cannot sign in. `cause` says why, for the log."""

    code = "sign_in_refused"
    status = 403
    type = "authentication_error"

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


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
    """The policy does not allow it. `details.category` names the category; nothing says which words."""

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


class HeldImageGone(RequestError):
    """The file of a held image is gone, so the image cannot be released."""

    code = "held_image_gone"
    status = 410


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
