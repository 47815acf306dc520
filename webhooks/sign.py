"""The headers that sign a webhook (Standard Webhooks 1.0, symmetric `v1`).

Source: https://github.com/standard-webhooks/standard-webhooks.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from standardwebhooks import Webhook


def headers(secrets: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers that sign `body` (UTF-8) at `timestamp` (Unix seconds), with one signature
    for each of `secrets`."""
    at, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, at, text) for secret in secrets),
    }
