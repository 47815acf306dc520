"""Prompts under a policy: what is refused, what a job's record carries, what the cache shares, and what nothing tells."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from structlog.testing import capture_logs

from api import moderation
from api.pictures.texts import texts
from contracts.errors import SettingsError
from contracts.models import LoraSpec, WorkerInfo
from contracts.settings import ApiSettings
from telemetry import metrics
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.held import drawn
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio

POLICY = """
name: shop
version: {version}
words:
  lists:
    - {{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}}
    - {{file: tulips.txt, category: flowers}}
  exceptions: ['builtin:lists/harmless.en.txt']
rules:
  weapons: {{words: {weapons}}}
  flowers: {{words: {flowers}}}
tenants:
  admin: {{flowers: {{words: block}}}}
"""


def write(folder: Path, *, version: int = 1, weapons: str = "block", flowers: str = "tag") -> Path:
    (folder / "tulips.txt").write_text("tulip\n")
    beside = folder / "policy.new"
    beside.write_text(POLICY.format(version=version, weapons=weapons, flowers=flowers))
    os.replace(beside, folder / "policy.yaml")
    return folder / "policy.yaml"


async def refused(api: ApiUnderTest, **body: Any) -> dict[str, Any]:
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", **body})
    assert response.status_code == 422, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


async def changed(api: ApiUnderTest, told: Callable[[], Awaitable[bool]]) -> None:
    """Waits until the running API has taken a change over."""
    async with asyncio.timeout(20):
        while not await told():
            await asyncio.sleep(0.05)


async def test_a_banned_word_is_refused_by_its_category_alone(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    with capture_logs() as logs:
        error = await refused(api, prompt="a knight with a sw0rd on red")
    assert (error["code"], error["param"], error["details"]) == (
        "content_blocked",
        "prompt",
        {"category": "weapons"},
    )
    assert not any(secret in json.dumps(error) for secret in ("w0rd", "score", "list"))
    (entry,) = [each for each in logs if each["event"] == "content_blocked"]
    assert (entry["category"], entry["layer"], entry["policy"], entry["tenant"]) == (
        "weapons",
        "words",
        "shop@1",
        "public",
    )
    assert "w0rd" not in json.dumps(logs, default=str)
    assert api.publisher.published == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"negative_prompt": "p i s t o l", "guidance_scale": 2.0}, "negative_prompt"),
        ({"lora": {"name": "sword-style"}}, "lora"),
    ],
)
async def test_other_texts_are_looked_at_too(
    opened: Opener, tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    api = await opened((), moderation=write(tmp_path))
    model = spec("m").model_copy(update={"loras": (LoraSpec(name="sword-style", revision="1"),)})
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0))
    assert (await refused(api, **body))["param"] == param


async def test_every_route_that_takes_prompts_asks(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    openai = await api.http.post("/v1/images/generations", json={"prompt": "a sword"})
    error = openai.json()["error"]
    assert (openai.status_code, error["code"], error["type"]) == (
        400,
        "content_policy_violation",
        "invalid_request_error",
    )
    assert error["details"] == {"category": "weapons"}
    requests = [{"prompt": "a dagger"}, {"prompt": "a green pear"}]
    batch = (await api.http.post("/v1/jobs:batch", json={"requests": requests})).json()
    assert [item["status"] for item in batch["data"]] == [422, 202]
    assert batch["data"][0]["error"]["code"] == "content_blocked"


async def test_nothing_is_charged_for_what_is_blocked(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    body = {"tenant": "acme", "requests_per_minute": 1, "burst": 1}
    created = (await api.http.post("/v1/keys", json=body, headers=ADMIN)).json()
    key = {"X-API-Key": created["key"]}
    for _ in range(5):
        response = await api.http.post("/v1/jobs", json={"prompt": "a sword"}, headers=key)
        assert response.status_code == 422
    assert (await api.http.post("/v1/jobs", json={"prompt": "a pear"}, headers=key)).status_code == 202


async def test_what_is_tagged_is_drawn_and_its_record_says_so(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    await api.submit(prompt="a tulip")
    request = api.publisher.published[-1].request
    assert request.moderation is not None
    assert (request.moderation.state, request.moderation.categories) == ("tagged", ("flowers",))
    assert (request.held, request.min_schema) == (False, 1)
    await api.submit(prompt="a pear")
    assert api.publisher.published[-1].request.moderation is None


async def test_what_is_in_review_is_held_and_shares_nothing(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    first = await api.submit(prompt="a tulip")
    await api.work()
    write(tmp_path, version=2, flowers="review")

    async def held() -> bool:
        await api.http.post("/v1/jobs", json={"prompt": "a tulip", "seed": "random"})
        return api.publisher.published[-1].request.held

    await changed(api, held)
    again = (await api.http.post("/v1/jobs", json={"prompt": "a tulip"})).json()
    assert again["cache"] == "miss", "what the first version let pass is not shown by the second"
    request = api.publisher.published[-1].request
    assert (request.held, request.min_schema) == (True, 2)
    assert request.seed == first["request"]["seed"], "the same picture all the same"


async def test_a_hit_of_the_cache_is_judged_by_the_policy_of_now(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path, weapons="tag"))
    await api.submit(prompt="a sword")
    await drawn(api, "passed")
    for _ in range(2):
        hit = (await api.http.post("/v1/jobs", json={"prompt": "a sword"})).json()
        assert hit["cache"] == "hit"
    write(tmp_path, version=2, weapons="block")

    async def blocked() -> bool:
        return (await api.http.post("/v1/jobs", json={"prompt": "a sword"})).status_code == 422

    await changed(api, blocked)


async def test_a_bad_policy_changes_nothing_while_it_runs(opened: Opener, tmp_path: Path) -> None:
    path = write(tmp_path)
    api = await opened(moderation=path)
    path.write_text("name: [")

    async def told() -> bool:
        return bool(metrics.POLICY_BAD._value.get())

    await changed(api, told)
    assert (await refused(api, prompt="a sword"))["code"] == "content_blocked"


async def test_the_policy_s_name_is_part_of_the_cache_and_of_no_seed(opened: Opener, tmp_path: Path) -> None:
    plain = await opened()
    without = await plain.submit()
    api = await opened(moderation=write(tmp_path))
    under = await api.submit()
    keys = [each.publisher.published[-1].key for each in (plain, api)]
    assert keys[0] != keys[1]
    assert without["request"]["seed"] == under["request"]["seed"]
    write(tmp_path, version=2)

    async def taken_over() -> bool:
        return bool(metrics.POLICY_INFO.labels("shop@2")._value.get() == 1)

    await changed(api, taken_over)
    assert (await api.submit())["cache"] == "joined", "its version is no part of it"


async def test_a_tenant_with_rules_of_its_own_shares_no_result(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path), share_cache_between_tenants=True)
    await api.submit()
    own = (await api.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers=ADMIN)).json()
    assert own["cache"] == "miss"
    response = await api.http.post("/v1/jobs", json={"prompt": "a tulip"}, headers=ADMIN)
    assert response.json()["error"]["details"] == {"category": "flowers"}


async def test_what_is_wrong_is_told_before_what_is_not_allowed(opened: Opener, tmp_path: Path) -> None:
    api = await opened(moderation=write(tmp_path))
    assert (await refused(api, prompt="a sword", width=7))["code"] == "invalid_request"


def png(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", text)
    return saved(pnginfo=info)


def exif(tag: int, value: Any) -> Image.Exif:
    made = Image.Exif()
    made[tag] = value
    return made


def user_comment(text: str) -> Image.Exif:
    made = Image.Exif()
    made.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-le")
    return made


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description rdf:about="" photoshop:Headline="{0}">'
    "<dc:description><rdf:Alt><rdf:li>{0}</rdf:li></rdf:Alt></dc:description></rdf:Description></x:xmpmeta>"
)


def saved(kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, kind, **how)
    return out.getvalue()


FILES: dict[str, Callable[[str], bytes]] = {
    "png text": png,
    "png exif": lambda text: saved(exif=exif(0x010E, text)),
    "jpeg description": lambda text: saved("JPEG", exif=exif(0x010E, text)),
    "jpeg windows title": lambda text: saved("JPEG", exif=exif(0x9C9B, text.encode("utf-16-le"))),
    "jpeg user comment": lambda text: saved("JPEG", exif=user_comment(text)),
    "jpeg comment": lambda text: saved("JPEG", comment=text),
    "jpeg xmp": lambda text: saved("JPEG", xmp=XMP.format(text).encode()),
    "webp xmp": lambda text: saved("WEBP", xmp=XMP.format(text).encode()),
}


@pytest.mark.parametrize("kind", FILES)
async def test_what_an_init_image_says_is_looked_at(opened: Opener, tmp_path: Path, kind: str) -> None:
    api = await opened((), moderation=write(tmp_path))
    model = spec("m").model_copy(update={"init_images": True})
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0))
    body = {"strength": 0.5, "num_inference_steps": 4}
    said = base64.b64encode(FILES[kind]("a knight with a sword")).decode()
    assert (await refused(api, init_image=said, **body))["param"] == "init_image"
    harmless = base64.b64encode(FILES[kind]("a knight")).decode()
    assert (await api.submit(init_image=harmless, **body))["status"] == "queued"


def test_only_texts_are_read() -> None:
    assert texts(FILES["jpeg xmp"]("a rose")) == "a rose"
    assert texts(saved()) == ""
    assert texts(b"\x89PNG\r\n\x1a\n damaged") == ""


def test_a_policy_that_cannot_be_used_stops_the_process(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(SettingsError, match=r"DARKROOM_MODERATION: .*policy\.yaml cannot be read"):
        moderation.opened(ApiSettings(moderation=path))
    (tmp_path / "head.json").write_text("{}")
    path.write_text("name: a\nversion: 1\nmeaning: {heads: [{file: head.json}]}\nrules: {weapons: {}}\n")
    with pytest.raises(SettingsError, match="DARKROOM_MODERATION_URL names no process"):
        moderation.opened(ApiSettings(moderation=path))


def test_without_a_policy_there_is_nothing() -> None:
    assert moderation.opened(ApiSettings()) is None


async def test_a_request_is_counted_once(opened: Opener, tmp_path: Path) -> None:
    api = await opened((), moderation=write(tmp_path))
    model = spec("m").model_copy(update={"init_images": True})
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0))

    def count(state: str) -> float:
        return float(metrics.PROMPTS_JUDGED.labels(state)._value.get())

    before = count("passed"), count("tagged"), count("blocked")
    image = base64.b64encode(FILES["png text"]("a rose")).decode()
    body = {"init_image": image, "strength": 0.5, "num_inference_steps": 4}
    await api.submit(**body)
    await api.submit(prompt="a tulip", **body)
    await refused(api, prompt="a sword", **body)
    assert (count("passed"), count("tagged"), count("blocked")) == tuple(each + 1 for each in before)


def test_without_a_policy_none_of_its_libraries_is_loaded() -> None:
    code = (
        "import sys; import api.__main__ as api; from contracts.settings import ApiSettings; api.build(ApiSettings());"
        "print([name for name in ('ahocorasick', 'confusable_homoglyphs', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"
