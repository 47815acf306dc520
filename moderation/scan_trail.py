"""What the audit trail of moderation says of a scan. Pure."""

from __future__ import annotations

from contracts.scans import Scan


def entry_of(scan: Scan, action: str, by: str) -> dict[str, object]:
    """The entry that `by` began, ended or abandoned a scan. It names no tenant."""
    what: dict[str, object] = {
        "action": action,
        "image": "",
        "by": by,
        "policy": scan.policy,
        "since": scan.since,
        "one_tenant": scan.tenant is not None,
    }
    if action == "scan_ended":
        what |= {
            "images": {outcome.value: count for outcome, count in sorted(scan.images.items())},
            "jobs": scan.jobs,
            "results": scan.results,
        }
    return what
