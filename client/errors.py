"""What can go wrong, in one tree.

ClientError
├── ConnectionFailed     nobody answers, or the answer breaks off
├── ApiError             the server refused: `status`, `code`, `param`, `request_id`, `details`
│   ├── BadRequest       400, 405, 409, 413, 415, 422: the request is at fault; `param` names the field
│   ├── Unauthorized     401
│   ├── Forbidden        403
│   ├── NotFound         404
│   ├── Gone             410: older than the server keeps
│   ├── Throttled        429: `retry_after_s`
│   ├── Unavailable      503: `retry_after_s`
│   └── ServerError      any other 5xx
├── JobFailed            the job ended without a picture; `job` is its record
└── StillRunning         the job has not ended in the time given; `job` is its last record
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.models import Job


class ClientError(Exception):
    """Base of the tree; its text is for people."""


class ConnectionFailed(ClientError):
    pass


class ApiError(ClientError):
    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        param: str | None = None,
        request_id: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.details = details
        self.retry_after_s = retry_after_s


class BadRequest(ApiError):
    pass


class Unauthorized(ApiError):
    pass


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class Gone(ApiError):
    pass


class Throttled(ApiError):
    pass


class Unavailable(ApiError):
    pass


class ServerError(ApiError):
    pass


class JobFailed(ClientError):
    def __init__(self, job: Job) -> None:
        reason = f": {job.error.message}" if job.error else "."
        super().__init__(f"Job {job.id} {job.status}{reason}")
        self.job = job


class StillRunning(ClientError):
    def __init__(self, job: Job) -> None:
        super().__init__(f"Job {job.id} is still {job.status}.")
        self.job = job


def error_class(status: int) -> type[ApiError]:
    """The class for an answer of that status (400 and above)."""
    known: dict[int, type[ApiError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        410: Gone,
        429: Throttled,
        503: Unavailable,
    }
    return known.get(status, ServerError if status >= 500 else BadRequest)
