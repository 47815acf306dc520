from __future__ import annotations

from pathlib import Path

import pytest

from moderation.hashes.formats import BadRow, HashRow, Kind, OtherRow, Row, read

PDQ = "acecf3355e3125c8e24e2f30e0d4ec4f8482b878b3c34cdbdf063278db275992"
SHA = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
MD5 = "acbd18db4cc2f85cedef654fccc4a4d8"


def rows(folder: Path, text: str | bytes, kind: Kind | None = None, name: str = "list.csv") -> list[Row]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read(path, kind))


def test_a_list_of_threatexchange(tmp_path: Path) -> None:
    text = f"collab,signal_type,signal_str,category,tags\nSample,pdq,{PDQ},WORTH_INVESTIGATING,\nSample,video_md5,{MD5},,\n"
    assert rows(tmp_path, text) == [HashRow(2, "pdq", bytes.fromhex(PDQ)), OtherRow(3, "video_md5")]


def test_samples_without_a_header_say_their_kind_by_an_option(tmp_path: Path) -> None:
    text = f"{PDQ},2880742865368386,2020-07-31T18:47:52+0000,media_type_photo disputed\n"
    assert rows(tmp_path, text, "pdq") == [HashRow(1, "pdq", bytes.fromhex(PDQ))]
    [bad] = rows(tmp_path, text)
    assert isinstance(bad, BadRow)
    assert "sha256 or pdq" in bad.reason
    assert rows(tmp_path, f"{MD5},3085044528211555,2020-07-31T20:23:47+0000,x\n") == [
        HashRow(1, "md5", bytes.fromhex(MD5))
    ]


@pytest.mark.parametrize("header", ["hash_type,hash,category,source", "Type,Value,Tags,Source"])
def test_other_names_of_columns(tmp_path: Path, header: str) -> None:
    text = f"\ufeff{header}\r\nSHA-256,{SHA.upper()},a,b\r\nHASH_MD5, {MD5} ,a,b\r\n\r\n"
    assert rows(tmp_path, text) == [
        HashRow(2, "sha256", bytes.fromhex(SHA)),
        HashRow(3, "md5", bytes.fromhex(MD5)),
    ]


def test_a_column_for_each_kind(tmp_path: Path) -> None:
    text = f"id,md5,sha1,pdq,quality\n7,{MD5},da39a3ee,{PDQ},49\n8,,,{PDQ},\n"
    assert rows(tmp_path, text) == [
        HashRow(2, "md5", bytes.fromhex(MD5), 49),
        OtherRow(2, "sha1"),
        HashRow(2, "pdq", bytes.fromhex(PDQ), 49),
        HashRow(3, "pdq", bytes.fromhex(PDQ)),
    ]


def test_a_page_of_ncmec(tmp_path: Path) -> None:
    text = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<queryResult xmlns="https://hashsharing.ncmec.org/hashsharing/v2">
  <images count="2" maxTimestamp="2020-10-27T18:40:00Z">
    <image>
      <member id="42">Example Member</member><timestamp>2020-10-27T18:40:00Z</timestamp><id>image1</id>
      <classification>A1</classification>
      <fingerprints><md5>{MD5}</md5><sha1>a9993e36</sha1><pdna>a0</pdna></fingerprints>
    </image>
    <deletedImage><member id="42">Example Member</member><id>image4</id></deletedImage>
    <image><id>image5</id><fingerprints><md5>xyz</md5></fingerprints></image>
  </images>
  <videos count="1" maxTimestamp="2020-10-27T18:40:00Z">
    <video><id>video1</id><fingerprints><md5>{MD5}</md5></fingerprints></video>
  </videos>
</queryResult>"""
    assert rows(tmp_path, text, name="page.xml") == [
        HashRow(1, "md5", bytes.fromhex(MD5)),
        OtherRow(1, "sha1"),
        OtherRow(1, "pdna"),
        OtherRow(2, "deleted"),
        BadRow(3, "a md5 has 32 hexadecimal digits, not 3 characters"),
        OtherRow(4, "video"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"pdq,{PDQ[:-1]}", "64 hexadecimal digits, not 63"),
        (f"pdq,{PDQ[:-1]}g", "hexadecimal digits alone"),
        (f"pdq,{'0' * 64}", "without any detail"),
        (f"pdq,{'f' * 64}", "without any detail"),
        ("md5,d41d8cd98f00b204e9800998ecf8427e", "empty file"),
        (f"phash,{PDQ}", "not known"),
        ("pdq", "too short"),
        (f",{'a' * 40}", "does not say its kind"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, reason: str) -> None:
    found = rows(tmp_path, f"hash_type,hash\nmd5,{MD5}\n{row}\nsha256,{SHA}\n")
    assert [type(each) for each in found] == [HashRow, BadRow, HashRow]
    bad = found[1]
    assert isinstance(bad, BadRow)
    assert bad.line == 3
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"hash_type,hash\nmd5,\xff\xfe\n", "not UTF-8"),
        (b'hash_type,hash\n"md5' + b"a" * 200_000, "no CSV"),
        (b"name,age\nx,1\n", "names no column"),
    ],
)
def test_a_file_that_is_no_list(tmp_path: Path, text: bytes, reason: str) -> None:
    found = rows(tmp_path, text)
    assert isinstance(found[-1], BadRow)
    assert reason in found[-1].reason


def test_xml_that_breaks_off(tmp_path: Path) -> None:
    found = rows(tmp_path, "<queryResult><images><image>", name="page.xml")
    assert [type(each) for each in found] == [BadRow]
