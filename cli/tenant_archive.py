"""The export of a tenant: a tar of JSON and images, with the receipt at its end.

`jobs/<id>.json` is a job with its request, its result and its webhook. `pictures/` and
`source_pictures/` hold images and init images, under the names in the jobs. `<kind>.json` holds
all other data.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any, BinaryIO

from backends.blobs import HELD, INPUTS
from cli import archive
from cli.receipt import Receipt, signed, stamp
from contracts.errors import ImageNotFound
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from store import tenant_export
from store.tenant_data import Found, TenantData


async def write(out: BinaryIO, data: TenantData, found: Found, blobs: BlobStore, clock: Clock) -> Receipt:
    """Writes the archive of the `found` data of a tenant to `out`, and returns the receipt.

    Raises `StoreUnavailable`, `OSError`.
    """
    writer, counts, begun_at = archive.Writer(out), Counter[str](), clock.now()
    async for job_id, document in tenant_export.jobs(data):
        _add(writer, f"jobs/{job_id}.json", document)
        counts["jobs"] += 1
        counts["webhooks"] += "webhook_delivery" in document
    for kind, document in (await tenant_export.documents(data, found)).items():
        _add(writer, f"{kind}.json", document)
        counts[kind] += len(document) if kind != "room_account" else 1
    for name in sorted(found.pictures.union(*found.live.values())):
        if name.startswith(HELD):
            continue  # its owner may not see it
        try:
            picture = await blobs.get(name)
        except ImageNotFound:
            continue  # deleted after its retention
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
    )  # half a surrogate pair becomes its escape in JSON
    writer.add(name, io.BytesIO(data), len(data))
