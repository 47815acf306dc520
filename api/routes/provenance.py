"""`/v1/images/{name}/provenance`: who drew an image with which model, as its file says and proves."""

from __future__ import annotations

from fastapi import APIRouter

from api.routes.images import CONTENT_TYPES
from api.services import Wired, failures
from backends.blobs import is_public_name
from contracts.errors import ImageNotFound
from views.provenance import ProvenanceView

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.get(
    "/{name}/provenance",
    summary="See who drew an image",
    responses=failures(404, 422, 501, 503),
)
async def provenance(services: Wired, name: str) -> ProvenanceView:
    """The content credentials in the file of an image, checked. `darkroom verify` does the same with a file."""
    content_type = CONTENT_TYPES.get(name.rpartition(".")[2])
    if content_type is None or not is_public_name(name):
        raise ImageNotFound("There is no such image.")
    data = await services.stores.blobs.get(name)
    return await services.provenance.read(data, content_type)
