"""Every error that a user or an operator can meet, in one tree.

    DarkroomError
    ├── RequestError            the caller's fault, never retried
    │   ├── InvalidRequest      422  a field is wrong; `param` names it
    │   ├── Unauthenticated     401  no API key
    │   │   ├── InvalidApiKey   401  unknown, or revoked
    │   │   └── SessionEnded    401  signed in once, and not any more
    │   ├── SignInRefused       403  a person whom the OpenID provider's answer does not let in
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
    │   ├── HeldImageGone       410  the file of a held image is gone
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
    │   │       ├── BlobStoreFull     the directory or bucket is full
    │   │       └── SigningUnavailable  the key service; only a job fails with it
    │   ├── QueueFull
    │   ├── ModelUnavailable    no live worker serves the model
    │   ├── TooManyStreams      event streams; polling still works
    │   ├── SignInUnavailable   the OpenID provider
    │   ├── ModerationUnavailable  a layer of moderation is away, and the policy fails closed
    │   ├── TooManyInitImages   init images that wait to be decoded
    │   └── JobExpired          passed its deadline while a request waited for it
    ├── InternalError           500
    ├── NotInstalled            501  the server lacks an optional package
    ├── GenerationFailed        502  the engine failed while a request waited for the job
    └── GenerationError         why a job failed, kept in its record: `contracts.failures`

`code` is stable and meant for programs. `status` is the HTTP status. One handler in `api` maps both to answers.
"""

from __future__ import annotations

from contracts.errors.base import (
    DarkroomError,
    GenerationFailed,
    InternalError,
    NotInstalled,
    QueueMisdeclared,
    SettingsError,
)
from contracts.errors.request import (
    ContentBlocked,
    ContentPolicyViolation,
    ContentUnderReview,
    HeldImageGone,
    HostNotAllowed,
    IdempotencyKeyReuse,
    ImageNotFound,
    InvalidApiKey,
    InvalidRequest,
    JobCanceled,
    JobGone,
    JobNotFound,
    KeyNotFound,
    MalformedBody,
    MethodNotAllowed,
    ModelNotFound,
    NothingToAppeal,
    OriginNotAllowed,
    PayloadTooLarge,
    PermissionDenied,
    PictureNotIndexed,
    QuotaExceeded,
    RangeNotSatisfiable,
    RequestError,
    ReviewDecided,
    ReviewNotFound,
    RouteNotFound,
    SearchOff,
    SessionEnded,
    SignInRefused,
    Unauthenticated,
    UnsupportedMediaType,
)
from contracts.errors.unavailable import (
    BlobStoreFull,
    BlobStoreUnavailable,
    BrokerUnavailable,
    JobExpired,
    ModelUnavailable,
    ModerationUnavailable,
    QueueFull,
    RecordUnreadable,
    SearchUnavailable,
    SigningUnavailable,
    SignInUnavailable,
    StoreFull,
    StoreUnavailable,
    TooManyInitImages,
    TooManyStreams,
    UnavailableError,
)

__all__ = [
    "BlobStoreFull",
    "BlobStoreUnavailable",
    "BrokerUnavailable",
    "ContentBlocked",
    "ContentPolicyViolation",
    "ContentUnderReview",
    "DarkroomError",
    "GenerationFailed",
    "HeldImageGone",
    "HostNotAllowed",
    "IdempotencyKeyReuse",
    "ImageNotFound",
    "InternalError",
    "InvalidApiKey",
    "InvalidRequest",
    "JobCanceled",
    "JobExpired",
    "JobGone",
    "JobNotFound",
    "KeyNotFound",
    "MalformedBody",
    "MethodNotAllowed",
    "ModelNotFound",
    "ModelUnavailable",
    "ModerationUnavailable",
    "NotInstalled",
    "NothingToAppeal",
    "OriginNotAllowed",
    "PayloadTooLarge",
    "PermissionDenied",
    "PictureNotIndexed",
    "QueueFull",
    "QueueMisdeclared",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RecordUnreadable",
    "RequestError",
    "ReviewDecided",
    "ReviewNotFound",
    "RouteNotFound",
    "SearchOff",
    "SearchUnavailable",
    "SessionEnded",
    "SettingsError",
    "SignInRefused",
    "SignInUnavailable",
    "SigningUnavailable",
    "StoreFull",
    "StoreUnavailable",
    "TooManyInitImages",
    "TooManyStreams",
    "Unauthenticated",
    "UnavailableError",
    "UnsupportedMediaType",
]
