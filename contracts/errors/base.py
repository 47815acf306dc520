"""The base of the tree of errors, and the errors that are nobody's request."""

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


class InternalError(DarkroomError):
    """An unexpected error of the platform."""


class NotInstalled(DarkroomError):
    """The server lacks an optional package."""

    code = "not_installed"
    status = 501


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
