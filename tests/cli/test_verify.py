"""`darkroom verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from moderation.provenance.signing import Signer
from tests.moderation.authority import Authority, Issued
from tests.moderation.test_provenance import REQUEST, drawn


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path / "authority").issue()


@pytest.fixture
def picture(issued: Issued, tmp_path: Path) -> Path:
    path = tmp_path / "picture.jpg"
    file = drawn("jpeg")
    path.write_bytes(Signer(issued.certificates, issued.key).sign(file.data, file.content_type, REQUEST))
    return path


def test_a_signed_picture_is_shown(picture: Path, issued: Issued) -> None:
    result = CliRunner().invoke(app, ["verify", str(picture), "--trust", str(issued.anchors)])
    assert result.exit_code == 0
    assert "trusted" in result.output
    assert "emoji-turbo 5f1c3a" in result.output
    shown = json.loads(CliRunner().invoke(app, ["verify", str(picture), "--json"]).output)
    assert (shown["validity"], shown["issuer"]) == ("valid", "Studio Ltd")


def test_a_signer_who_is_not_trusted_fails(picture: Path, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other").issue()
    result = CliRunner().invoke(app, ["verify", str(picture), "--trust", str(other.anchors)])
    assert result.exit_code == 1
    assert "valid" in result.output


def test_a_changed_picture_fails(picture: Path) -> None:
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    result = CliRunner().invoke(app, ["verify", str(picture)])
    assert result.exit_code == 1
    assert "assertion.dataHash.mismatch" in result.output


def test_a_picture_without_credentials_fails(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(drawn("png").data)
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert (result.exit_code, "no content credentials" in result.output) == (1, True)
    shown = CliRunner().invoke(app, ["verify", str(path), "--json"])
    assert (shown.exit_code, json.loads(shown.output)["signed"]) == (1, False)


@pytest.mark.parametrize("file", ["none.png", "picture.gif", ".", ""])
def test_a_file_that_is_none_is_named(file: str) -> None:
    result = CliRunner().invoke(app, ["verify", file])
    assert result.exit_code == 2
    assert "darkroom verify:" in result.output
