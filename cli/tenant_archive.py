"""The export of a tenant: a tar of JSON and pictures, and at its end the receipt.

`jobs/<id>.json` is a job with its request, its result and its webhook; `pictures/` and `source_pictures/` hold the files under the names
that jobs give them; `<kind>.json` is everything else.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any, BinaryIO

from backends.blobs import INPUTS
from cli import archive
from cli.receipt import Receipt, signed, stamp
from contracts.blobs import BlobStore
from contracts.clock import Clock
from contracts.errors import ImageNotFound
from store import tenant_export
from store.tenant_data import Found, TenantData


async def write(out: BinaryIO, data: TenantData, found: Found, blobs: BlobStore, clock: Clock) -> Receipt:
    """Writes the archive of what was `found`. Raises `StoreUnavailable`, `OSError`."""
    writer, counts, begun_at = archive.Writer(out), Counter[str](), clock.now()
    async for job_id, document in tenant_export.jobs(data):
        _add(writer, f"jobs/{job_id}.json", document)
        counts["jobs"] += 1
        counts["webhooks"] += "webhook_delivery" in document
    for kind, document in (await tenant_export.documents(data, found)).items():
        _add(writer, f"{kind}.json", document)
        counts[kind] += len(document) if kind != "room_account" else 1
    for name in sorted(found.pictures.union(*found.live.values())):
        try:
            picture = await blobs.get(name)
        except ImageNotFound:
            continue  # older than the pictures are kept
        is_input = name.startswith(INPUTS)
        folder = "source_pictures" if is_input else "pictures"
        writer.add(f"{folder}/{name.removeprefix(INPUTS)}", io.BytesIO(picture), len(picture))
        counts[folder] += 1
    receipt = Receipt(
        receipt="export",
        tenant=data.tenant,
        begun_at=stamp(begun_at),
        ended_at=stamp(clock.now()),
        counts={kind: count for kind, count in counts.items() if count},
        files=writer.files,
    )
    writer.end(archive.RECEIPT, signed(receipt).encode())
    return receipt


def _add(writer: archive.Writer, name: str, document: Any) -> None:
    data = json.dumps(document, indent=1, ensure_ascii=False).encode(
        errors="backslashreplace"
    )  # half a pair becomes its escape in JSON
    writer.add(name, io.BytesIO(data), len(data))
