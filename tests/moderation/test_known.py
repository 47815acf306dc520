"""Known images are found again after what people do to them, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.hashes.importing import LOW_QUALITY, BadRows, import_list
from moderation.hashes.pdq import hash_of
from moderation.judge import open_judge
from moderation.policy import InvalidPolicy, parse
from telemetry import metrics
from tests.moderation import known
from tests.moderation.known import Rgb

POLICY = """
name: house
version: 1
pictures: {lists: [{file: known.pdq, category: weapons}]}
rules: {weapons: {hashes: block}}
"""


class Means:
    """Embeds an image as the means of its parts: a stand-in for a CLIP that needs no weights."""

    clip = "means@1"

    def embed(self, rgb: Rgb) -> bytes:
        small = np.asarray(Image.fromarray(rgb).resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
        small = small - small.mean()
        return bytes((small / np.linalg.norm(small)).astype("<f2").tobytes())


def jpeg(rgb: Rgb, quality: int = 50) -> Rgb:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def half(rgb: Rgb) -> Rgb:
    return np.asarray(Image.fromarray(rgb).resize((rgb.shape[1] // 2, rgb.shape[0] // 2)))


def brighter(rgb: Rgb) -> Rgb:
    brighter: Rgb = np.clip(rgb * 1.2, 0, 255).astype(np.uint8)
    return brighter


CHANGES = {
    "jpeg": jpeg,
    "half": half,
    "mirror": lambda rgb: np.ascontiguousarray(rgb[:, ::-1]),
    "turned": lambda rgb: np.ascontiguousarray(np.rot90(rgb)),
    "upside down and mirrored": lambda rgb: np.ascontiguousarray(np.rot90(rgb, 2)[:, ::-1]),
    "brighter": brighter,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of six pictures of 512 pixels, made from a folder."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "pictures" / "more").mkdir(parents=True)
    for seed in range(6):
        (folder / "pictures" / "more" / f"{seed}.png").write_bytes(known.png(known.pattern(seed, 512)))
    (folder / "pictures" / "notes.txt").write_text("nothing")
    header, _ = import_list(folder / "pictures", folder / "known.pdq", "weapons")
    assert header.counts == {"sha256": 6, "md5": 6, "pdq": 6, "other_files": 1}
    return folder


@pytest.mark.anyio
@pytest.mark.parametrize("change", CHANGES)
async def test_a_known_picture_is_found_after(change: str, folder: Path) -> None:
    judge = open_judge(parse(POLICY, "policy", folder))
    for seed in range(6):
        look = await judge.look(known.picture(CHANGES[change](known.pattern(seed, 512))))
        assert [each.layer for each in look.findings] == ["hashes"]
        [found] = look.findings
        assert " by pdq, " in found.source
        assert found.score >= 1 - 31 / 256
        assert look.away == ()


@pytest.mark.anyio
async def test_other_pictures_are_not_found(folder: Path) -> None:
    judge = open_judge(parse(POLICY, "policy", folder))
    for seed in range(100, 140):
        assert (await judge.look(known.picture(known.pattern(seed, 512)))).findings == ()
    negative = known.picture(255 - known.pattern(0, 512))
    assert (await judge.look(negative)).findings == ()


@pytest.mark.anyio
async def test_a_smaller_distance_of_the_policy_finds_less(folder: Path) -> None:
    turned = known.picture(np.ascontiguousarray(np.rot90(jpeg(known.pattern(0, 512), 10))))
    strict = POLICY.replace("category: weapons}]", "category: weapons, distance: 0}]")
    assert (await open_judge(parse(POLICY, "policy", folder)).look(turned)).findings
    assert not (await open_judge(parse(strict, "policy", folder)).look(turned)).findings


@pytest.mark.anyio
async def test_a_picture_without_detail_is_counted_and_found_by_its_embedding(tmp_path: Path) -> None:
    plain = np.full((64, 64, 3), 200, np.uint8)
    plain[40:, :30] = 190
    assert hash_of(plain)[1] < 50
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "plain.png").write_bytes(known.png(plain))
    header, _ = import_list(tmp_path / "pictures", tmp_path / "known.pdq", "weapons", embedder=Means())
    assert header.counts == {"sha256": 1, "md5": 1, LOW_QUALITY: 1, "views": 7}
    judge = open_judge(parse(POLICY, "policy", tmp_path), Means.clip)

    changed = jpeg(plain)
    before = metrics.PICTURES_WITHOUT_PDQ._value.get()
    look = await judge.look(known.picture(changed, embedding=Means().embed(changed), clip=Means.clip))
    assert [each.source.partition(" by ")[2] for each in look.findings] == ["embedding"]
    assert metrics.PICTURES_WITHOUT_PDQ._value.get() == before + 1

    exact = await judge.look(known.picture(plain))
    assert [each.source.partition(" by ")[2] for each in exact.findings] == ["sha256", "md5"]
    other = known.pattern(3)
    look = await judge.look(known.picture(other, embedding=Means().embed(other), clip=Means.clip))
    assert look.findings == ()


@pytest.mark.anyio
async def test_a_picture_without_detail_is_counted_where_a_list_has_hashes(folder: Path) -> None:
    judge = open_judge(parse(POLICY, "policy", folder))
    before = metrics.PICTURES_WITHOUT_PDQ._value.get()
    look = await judge.look(known.picture(np.full((64, 64, 3), 200, np.uint8)))
    assert (look.findings, look.away) == ((), ())
    assert metrics.PICTURES_WITHOUT_PDQ._value.get() == before + 1


def test_embeddings_of_another_clip_stop_the_policy(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(known.png(known.pattern(1)))
    import_list(tmp_path / "pictures", tmp_path / "known.pdq", "weapons", embedder=Means())
    with pytest.raises(
        InvalidPolicy, match="has embeddings of means@1, and the workers have means@2: import it again"
    ):
        open_judge(parse(POLICY, "policy", tmp_path), "means@2")
    open_judge(parse(POLICY, "policy", tmp_path), "")  # digests and hashes are looked up without


def test_a_file_that_is_no_image_keeps_the_list_from_being_written(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(known.png(known.pattern(1))[:200])
    (tmp_path / "pictures" / "b.png").write_bytes(known.png(known.pattern(2)))
    with pytest.raises(BadRows, match=r"a\.png is no image that can be read"):
        import_list(tmp_path / "pictures", tmp_path / "known.pdq", "weapons")
    assert not (tmp_path / "known.pdq").exists()
    header, _ = import_list(tmp_path / "pictures", tmp_path / "known.pdq", "weapons", skip_bad=True)
    assert header.counts["sha256"] == 1


def test_hashes_of_low_quality_in_a_list_are_counted_and_left_out(tmp_path: Path) -> None:
    good = "acecf3355e3125c8e24e2f30e0d4ec4f8482b878b3c34cdbdf063278db275992"
    (tmp_path / "l.csv").write_text(f"pdq,quality\n{good},49\n{good},50\n")
    header, _ = import_list(tmp_path / "l.csv", tmp_path / "known.pdq", "weapons")
    assert header.counts == {LOW_QUALITY: 1, "pdq": 1}


@pytest.mark.anyio
async def test_a_crop_is_found_by_an_embedding_that_a_hash_confirms(tmp_path: Path) -> None:
    rgb = known.pattern(4)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(known.png(rgb))
    import_list(tmp_path / "pictures", tmp_path / "known.pdq", "weapons", embedder=Means())
    judge = open_judge(parse(POLICY, "policy", tmp_path), Means.clip)

    cropped = np.ascontiguousarray(rgb[7:-7, 7:-7])
    look = await judge.look(known.picture(cropped, embedding=Means().embed(cropped), clip=Means.clip))
    assert [each.source.partition(" by ")[2] for each in look.findings] == ["embedding"]
    # An embedding that is as near, of a picture that looks otherwise, is no match.
    other = known.pattern(5)
    look = await judge.look(known.picture(other, embedding=Means().embed(cropped), clip=Means.clip))
    assert look.findings == ()
