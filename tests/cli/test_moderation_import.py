from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from contracts import exit_codes
from moderation.hashes import list_file
from moderation.hashes.exact import digests_in
from moderation.pictures.head import read_head

MD5 = "acbd18db4cc2f85cedef654fccc4a4d8"


def test_a_csv_becomes_a_list(tmp_path: Path) -> None:
    source, out = tmp_path / "known.csv", tmp_path / "known.pdq"
    source.write_text(f"hash_type,hash\nmd5,{MD5}\nphotodna,AAAA\n")
    result = CliRunner().invoke(
        app, ["moderation", "import", str(source), "--category", "weapons", "--out", str(out), "--json"]
    )
    assert result.exit_code == exit_codes.ENDED, result.output
    header, arrays = list_file.read(out)
    assert json.loads(result.stdout) == {
        "list": str(out),
        "category": "weapons",
        "revision": header.revision,
        "counts": {"photodna": 1, "md5": 1},
        "bad": 0,
    }
    assert bytes.fromhex(MD5) in digests_in("md5", arrays)


def test_bad_rows_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    source, out = tmp_path / "known.csv", tmp_path / "known.pdq"
    source.write_text(f"hash_type,hash\nmd5,beef\nmd5,{MD5}\n")
    arguments = ["moderation", "import", str(source), "--category", "weapons", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == exit_codes.UNUSABLE
    assert "line 2: a md5 has 32 hexadecimal digits" in result.stderr
    assert "Nothing was written" in result.stderr
    assert not out.exists()
    result = CliRunner().invoke(app, [*arguments, "--skip-bad"])
    assert result.exit_code == exit_codes.ENDED
    assert "1 md5; 1 rows left out" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--category", "Bad One", "--out", "a.pdq"], "is no category"),
        (["--category", "weapons", "--out", "none/a.pdq"], "No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "known.csv").write_text(f"{MD5}\n")
    result = CliRunner().invoke(app, ["moderation", "import", "known.csv", *arguments])
    assert result.exit_code == exit_codes.UNUSABLE
    assert reason in " ".join(result.stderr.split())


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_list_with_embeddings(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, level in (("a", 40), ("b", 200)):
        rgb = np.full((64, 64, 3), level, np.uint8)
        rgb[16:48, 20:40] = (255, 0, 0)
        Image.fromarray(rgb).save(tmp_path / "pictures" / f"{name}.png")
    out = tmp_path / "known.pdq"
    result = CliRunner().invoke(
        app,
        ["moderation", "import", str(tmp_path / "pictures"), "--category", "weapons", "--out", str(out)],
        env={"DARKROOM_CLIP": "models/emoji-clip"},
    )
    assert result.exit_code == exit_codes.ENDED, result.output
    header, arrays = list_file.read(out)
    assert header.clip.startswith("emoji-clip@")
    assert header.counts["views"] == 14
    lengths = np.linalg.norm(arrays["views.vectors"].astype(np.float32), axis=1)
    assert lengths == pytest.approx(np.ones(14), abs=0.01)
    file = (tmp_path / "pictures" / "a.png").read_bytes()
    assert hashlib.sha256(file).digest() in digests_in("sha256", arrays)


@pytest.mark.slow
def test_a_clip_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    result = CliRunner().invoke(
        app,
        ["moderation", "import", str(tmp_path / "pictures"), "--category", "weapons", "--out", "a.pdq"],
        env={"DARKROOM_CLIP": "models/none"},
    )
    assert result.exit_code == exit_codes.UNUSABLE
    assert "DARKROOM_CLIP=models/none is no folder here" in result.stderr


@pytest.mark.slow
def test_a_head_is_fitted_to_labelled_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, red in (("weapons", 200), ("other", 60)):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for number in range(25):
            rgb = random.integers(0, 50, (64, 64 + 8 * (number % 2), 3), dtype=np.uint8)
            rgb[8:56, 8:56, 0] = red
            Image.fromarray(rgb).save(tmp_path / "labelled" / name / f"{number}.png")
    out = tmp_path / "head.json"
    arguments = ["moderation", "fit-pictures", str(tmp_path / "labelled"), "--category", "weapons"]
    result = CliRunner().invoke(
        app, [*arguments, "--out", str(out), "--json"], env={"DARKROOM_CLIP": "models/emoji-clip"}
    )
    assert result.exit_code == exit_codes.ENDED, result.output
    said = json.loads(result.stdout)
    assert (said["pictures"], said["auc"]) == (50, 1.0)
    assert read_head(out, said["clip"]).category == "weapons"
    result = CliRunner().invoke(
        app,
        [*arguments[:-1], "none", "--out", str(out)],
        env={"DARKROOM_CLIP": "models/emoji-clip"},
    )
    assert result.exit_code == exit_codes.UNUSABLE
    assert "there are 0 and 50" in result.stderr
