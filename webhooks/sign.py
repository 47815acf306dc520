"""Signatures of Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks,
symmetric `v1`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from contracts.webhooks import SECRET_PREFIX


def headers(secrets: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers that sign `body` at `timestamp` (Unix seconds), with one signature for each
    of `secrets`."""
    signed = b"%s.%d.%s" % (webhook_id.encode("ascii"), timestamp, body)
    signatures = [
        base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode("ascii")
        for secret in secrets
    ]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
