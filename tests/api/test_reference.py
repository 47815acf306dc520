"""The documents that describe the interface: anybody may ask for them, so they are written once."""

from __future__ import annotations

from typing import Any

import pytest

from api.openapi import complete
from contracts.models import LoraSpec
from tests.api.conftest import Opener
from tests.api.test_lora import announce
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio


async def test_a_document_is_written_anew_when_the_models_change_and_not_before(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []

    def noted(*given: Any) -> Any:
        written.append(given)
        return complete(*given)

    monkeypatch.setattr("api.routes.reference.complete", noted)
    api = await opened()
    for path in ("/openapi.json", "/docs"):
        answers = {(await api.http.get(path)).content for _ in range(20)}
        assert len(answers) == 1
        # Another worker of the same model changes nothing.
        await announce(api, spec("m"))
        api.clock.advance(2)
        assert (await api.http.get(path)).content in answers
    assert len(written) == 2
    await announce(api, spec("m").model_copy(update={"loras": (LoraSpec(name="pixel", revision="1"),)}))
    api.clock.advance(2)
    document = (await api.http.get("/openapi.json")).json()
    assert document["components"]["schemas"]["LoraRequest"]["properties"]["name"]["enum"] == ["pixel"]
    assert len(written) == 3
