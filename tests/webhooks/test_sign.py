"""Our signatures, verified by the reference implementation of Standard Webhooks."""

from __future__ import annotations

import json
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from store.webhooks import new_secret
from webhooks.sign import headers

BODY = json.dumps({"type": "job.succeeded", "data": {"prompt": "ein Äpfelchen ☂"}}).encode()


def test_the_reference_verifier_accepts_it() -> None:
    secret = new_secret()
    signed = headers([secret], "msg_1", int(time.time()), BODY)
    assert set(signed) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert Webhook(secret).verify(BODY, signed) == json.loads(BODY)


def test_while_a_secret_is_rotated_both_verify_and_no_other() -> None:
    old, new = new_secret(), new_secret()
    signed = headers([new, old], "msg_1", int(time.time()), BODY)
    assert len(signed["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, signed)


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp"])
def test_nothing_that_is_signed_can_be_changed(change: str) -> None:
    secret = new_secret()
    signed = headers([secret], "msg_1", int(time.time()) - 10, BODY)
    body = BODY
    if change == "body":
        body += b" "
    else:
        signed[change] = "msg_2" if change == "webhook-id" else str(int(time.time()))
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, signed)


def test_the_example_of_the_specification() -> None:
    """The test vector that all libraries of the specification share."""
    signed = headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
