"""All errors of the client, in one tree.

ClientError
├── ConnectionFailed     no server answers, or the answer breaks off
├── ApiError             the server refused: `status`, `code`, `param`, `request_id`, `details`
│   ├── BadRequest       400, 405, 409, 413, 415, 422: the request is wrong; `param` names the field
│   │   └── ContentBlocked   422 `content_blocked`: the policy does not allow it; `category`
│   ├── Unauthorized     401
│   ├── Forbidden        403
│   ├── NotFound         404
│   ├── Gone             410: older than the server keeps it
│   ├── Throttled        429: `retry_after_s`
│   ├── Unavailable      503: `retry_after_s`
│   └── ServerError      any other 5xx, or an answer that is not Darkroom's
├── JobFailed            the job ended without an image; `job` is its record
├── ImageWithheld        the content policy withholds the image; `verdict` says why
└── StillRunning         the job has not ended within the time allowed; `job` is its last record
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.models import Job


class ClientError(Exception):
    """Base of all errors. Its text is for people."""


class ConnectionFailed(ClientError):
    """No server answers, or the answer breaks off."""


class ApiError(ClientError):
    """The server refused a request.

    `status` is the HTTP status, `code` the error code, `param` the field at fault, `request_id`
    the id in the server's logs, `details` what the error code adds, and `retry_after_s` the
    seconds after which to try again.
    """

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
    """400, 405, 409, 413, 415 or 422: the request is wrong. `param` names the field."""


class ContentBlocked(BadRequest):
    """422: the server's policy does not allow what the request asks for. `param` names the field."""

    CODE = "content_blocked"

    @property
    def category(self) -> str:
        """The category of the policy, such as `weapons`."""
        return str((self.details or {}).get("category", ""))


class Unauthorized(ApiError):
    """401: the API key is missing or wrong."""


class Forbidden(ApiError):
    """403: the API key lacks the right to do this."""


class NotFound(ApiError):
    """404: no such job, image, key or path."""


class Gone(ApiError):
    """410: the job or image is older than the server keeps it."""


class Throttled(ApiError):
    """429: a limit is reached. `retry_after_s` says when to try again."""


class Unavailable(ApiError):
    """503: a service is missing or full. `retry_after_s` says when to try again."""


class ServerError(ApiError):
    """Any other 5xx, or an answer that is not Darkroom's."""


class JobFailed(ClientError):
    """The job ended without an image. `job` is its record."""

    def __init__(self, job: Job) -> None:
        reason = f": {job.error.message}" if job.error else "."
        super().__init__(f"Job {job.id} {job.status}{reason}")
        self.job = job


class ImageWithheld(ClientError):
    """The content policy withholds the image. `verdict` is in_review, blocked or refused."""

    def __init__(self, verdict: str) -> None:
        why = {"in_review": "is under review", "refused": "was refused by a reviewer"}.get(
            verdict, "is blocked by the content policy"
        )
        super().__init__(f"The image {why}.")
        self.verdict = verdict


class StillRunning(ClientError):
    """The job has not ended within the time allowed. `job` is its last record."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"Job {job.id} is still {job.status}.")
        self.job = job


def error_class(status: int, code: str = "") -> type[ApiError]:
    """Returns the error class for an HTTP status of 400 or above, and the code of the error."""
    if code == ContentBlocked.CODE:
        return ContentBlocked
    classes: dict[int, type[ApiError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        410: Gone,
        429: Throttled,
        503: Unavailable,
    }
    return classes.get(status, ServerError if status >= 500 else BadRequest)
