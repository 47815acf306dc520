#!/usr/bin/env bash
# Most people would guess: standardwebhooks' Webhook.sign() takes any datetime with a time zone. It drops the zone and reads the clock's
# digits as UTC, so a signature made for 14:00+02:00 is that of 14:00 UTC, and no receiver accepts it beside the true timestamp.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check standardwebhooks==1.1.0
"$folder/venv/bin/python" - <<'PY'
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

from standardwebhooks import Webhook, WebhookVerificationError

print("standardwebhooks", version("standardwebhooks"))
webhook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
now = datetime.now(timezone.utc)
accepted = {}
for hours in (0, 2, -8):
    moment = now.astimezone(timezone(timedelta(hours=hours)))
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": webhook.sign("msg_1", moment, '{"type": "job.succeeded"}'),
    }
    try:
        webhook.verify('{"type": "job.succeeded"}', headers)
        accepted[hours] = True
    except WebhookVerificationError as error:
        accepted[hours] = False
        print(f"the same moment as UTC{hours:+d}: {error}")
    else:
        print(f"the same moment as UTC{hours:+d}: verified")
if accepted != {0: True, 2: False, -8: False}:
    raise SystemExit("CHANGED: the zone counts now")
PY
