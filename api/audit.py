"""The audit trail in the log: every call of an administrator, and every refused API key.

It has two events, `admin_call` and `key_refused`, so a log pipeline can store them separately. A
key is named by its id, which is not a secret.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.types import Scope

from api.keyring import Principal
from contracts.errors import RequestError
from telemetry.logs import get_logger

MAX_CHARS: Final = 500
"""The longest path or query that is logged."""
_CALL: Final = "admin_call"

log = get_logger(__name__)


def admin_call(request: Request, principal: Principal, **fields: str) -> None:
    """Note that `request` uses the scope `admin`.

    `answered` logs it, with the status of its answer and `fields`.
    """
    request.scope["state"][_CALL] = {"key_id": principal.key_id, **fields}


def answered(scope: Scope, status: int) -> None:
    """Log the request with its `status`, if it was a call of an administrator."""
    call: dict[str, Any] | None = scope["state"].get(_CALL)
    if call is None:
        return
    path, query = scope["path"][:MAX_CHARS], scope["query_string"][:MAX_CHARS].decode("latin-1")
    log.info("admin_call", method=scope["method"], path=path, query=query, status=status, **call)


def key_refused(error: RequestError, key_id: str | None, tenant: str | None = None) -> None:
    """Log that a key, or a request without a key, is refused.

    `tenant`: of a valid key that lacks the scope.
    """
    log.warning("key_refused", code=error.code, key_id=key_id, tenant=tenant)
