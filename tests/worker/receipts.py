"""Deliveries as the consumer hands them to a worker: real messages of kombu's, without a broker."""

from __future__ import annotations

import json
from typing import Any

from kombu.message import Message

from broker.topology import task_message
from contracts.jobs import JobMessage
from worker.receipt import Receipt


def receipt_of(message: JobMessage) -> Receipt:
    """The delivery of a job's message, as it is published."""
    body, headers, properties = task_message(message)
    return Receipt(_delivered(body, headers, properties))


def receipt_with(job_id: Any, message: Any) -> Receipt:
    """One whose headers say `job_id`, and whose body holds `message`."""
    return Receipt(_delivered(json.dumps([[message], {}, {}]).encode(), {"id": job_id}, {}))


def _delivered(body: bytes, headers: dict[str, Any], properties: dict[str, Any]) -> Message:
    return Message(
        body=body,
        headers=headers,
        properties=properties,
        content_type="application/json",
        content_encoding="utf-8",
        accept={"application/json"},
    )
