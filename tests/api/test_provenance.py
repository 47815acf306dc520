"""`GET /v1/images/{name}/provenance`."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.provenance import ProvenanceReader
from contracts.errors import SettingsError
from contracts.settings import ApiSettings
from moderation.provenance.signing import Signer
from tests.api.conftest import ApiUnderTest, Opener
from tests.moderation.authority import Authority
from tests.moderation.test_provenance import REQUEST, drawn

pytestmark = pytest.mark.anyio


async def test_an_image_says_who_drew_it(opened: Opener, tmp_path: Path) -> None:
    issued = Authority(tmp_path / "authority").issue()
    api = await opened(c2pa_trust_anchors=issued.anchors)
    signed = Signer(issued.certificates, issued.key).sign(drawn("webp").data, "image/webp", REQUEST)
    name = await api.stores.blobs.put(signed, "webp")
    answer = await api.http.get(f"/v1/images/{name}/provenance")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["signed"], told["validity"], told["problems"]) == (True, "trusted", [])
    assert (told["issuer"], told["model"], told["source_type"]) == (
        "Studio Ltd",
        "emoji-turbo",
        "trainedAlgorithmicMedia",
    )
    assert told["prompt"] is None
    assert told["generator"].startswith("Darkroom ")


async def test_an_unsigned_image_has_no_credentials(api: ApiUnderTest) -> None:
    name = await api.stores.blobs.put(drawn("png").data, "png")
    told = (await api.http.get(f"/v1/images/{name}/provenance")).json()
    assert (told["signed"], told["validity"], told["model"]) == (False, None, None)


async def test_no_image_no_provenance(api: ApiUnderTest) -> None:
    for name in ("0" * 64 + ".png", "x.png", "x"):
        answer = await api.http.get(f"/v1/images/{name}/provenance")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_found")


async def test_what_is_damaged_beyond_reading_is_invalid(api: ApiUnderTest) -> None:
    name = await api.stores.blobs.put(b"no image", "png")
    told = (await api.http.get(f"/v1/images/{name}/provenance")).json()
    assert (told["signed"], told["validity"], told["problems"]) == (True, "invalid", ["unreadable"])


def test_certificates_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_C2PA_TRUST_ANCHORS"):
        ProvenanceReader(ApiSettings(c2pa_trust_anchors=tmp_path / "none.pem"))
