"""The audit trail in the log: every call of an administrator, every refused API key, every blocked request.

It has five events, `admin_call`, `key_refused`, `content_blocked`, `signed_in` and `sign_in_failed`, so a log
pipeline can store them separately. A key is named by its id, which is not a secret; a person by a hash. No event
has a prompt, or the whole name of an image: whoever knows it may read the image once it is released.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_plus

from starlette.requests import Request
from starlette.types import Scope

from api.keyring import Principal
from contracts.errors import RequestError
from contracts.moderation import Verdict
from contracts.sessions import Session, person_id_of
from telemetry.logs import get_logger

MAX_CHARS: Final = 500
"""The longest path or query that is logged."""
_CALL: Final = "admin_call"
_IMAGE: Final = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}(?=\.)")
"""The name of an image. Its beginning is enough to find it in the audit trail of moderation."""
_PERSON: Final = re.compile(r"\bperson=([^&]*)")

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
    path = _IMAGE.sub(r"\1*", scope["path"])[:MAX_CHARS]
    query = _PERSON.sub(_hashed, scope["query_string"][:MAX_CHARS].decode("latin-1"))
    log.info("admin_call", method=scope["method"], path=path, query=query, status=status, **call)


def _hashed(person: re.Match[str]) -> str:
    """The person of a query, as the log names people."""
    named = unquote_plus(person[1])
    return f"person={person_id_of(named) if '#' in named else named}"


def key_refused(error: RequestError, key_id: str | None, tenant: str | None = None) -> None:
    """Log that a key, or a request without a key, is refused.

    `tenant`: of a valid key that lacks the scope.
    """
    log.warning("key_refused", code=error.code, key_id=key_id, tenant=tenant)


def signed_in(session: Session) -> None:
    """Log that a person has signed in, and with which scopes."""
    log.info("signed_in", key_id=session.person_id, scopes=list(session.scopes))


def sign_in_failed(code: str, cause: str) -> None:
    """Log that nobody was let in: which check failed, and nothing that the provider has sent."""
    log.warning("sign_in_failed", code=code, cause=cause)


def content_blocked(principal: Principal, verdict: Verdict) -> None:
    """Log that a request is blocked: by which policy, layer and list, and not for which words."""
    log.warning(
        "content_blocked",
        key_id=principal.key_id,
        tenant=principal.tenant,
        policy=verdict.policy,
        layer=verdict.layer,
        category=verdict.categories[0],
        source=verdict.source,
    )
