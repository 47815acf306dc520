"""Temporary errors. A client may retry."""

from __future__ import annotations

from typing import Any

from contracts.errors.base import DarkroomError


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


class SigningUnavailable(BlobStoreUnavailable):
    """Images cannot be signed now, so they cannot be published."""

    code = "signing_unavailable"


class SearchUnavailable(UnavailableError):
    """The search process is away, or its index is."""

    code = "search_unavailable"


class ModerationUnavailable(UnavailableError):
    """A layer of moderation cannot look, and the policy lets nothing pass without it."""

    code = "moderation_unavailable"


class SignInUnavailable(UnavailableError):
    """The OpenID provider is away, or does not answer as the standard says. `cause` says which, for the log."""

    code = "sign_in_unavailable"

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message, retry_after_s=5.0)
        self.cause = cause


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
