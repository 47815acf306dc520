"""The audit trail, in the log: every call that an administrator makes, and every key that is refused.

Two events, `admin_call` and `key_refused`, so that they can be kept apart from the rest. A key is named by its id, which is no secret.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.types import Scope

from api.keyring import Principal
from contracts.errors import RequestError
from telemetry.logs import get_logger

MAX_CHARS: Final = 500
"""Of a path or a query."""
_ASKED: Final = "admin_call"

log = get_logger(__name__)


def admin_call(request: Request, principal: Principal, **fields: str) -> None:
    """Note that a request uses the scope `admin`. It is logged with its status once it is answered."""
    request.scope["state"][_ASKED] = {"key_id": principal.key_id, **fields}


def answered(scope: Scope, status: int) -> None:
    """Log the call of an administrator, if the request was one."""
    asked: dict[str, Any] | None = scope["state"].get(_ASKED)
    if asked is None:
        return
    path, query = scope["path"][:MAX_CHARS], scope["query_string"][:MAX_CHARS].decode("latin-1")
    log.info("admin_call", method=scope["method"], path=path, query=query, status=status, **asked)


def key_refused(error: RequestError, key_id: str | None, tenant: str | None = None) -> None:
    """Log that a key, or a request without one, is refused. `tenant`: of a key that is good, but not for this."""
    log.warning("key_refused", code=error.code, key_id=key_id, tenant=tenant)
