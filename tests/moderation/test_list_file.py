from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moderation.hashes import list_file
from moderation.hashes.exact import arrays_of, digests_in
from moderation.hashes.list_file import Header, InvalidList


def test_digests_are_found_and_others_are_not(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    digests = [random.bytes(32) for _ in range(500)]
    near = [digests[0][:8] + random.bytes(24), digests[1][:-1] + bytes([digests[1][-1] ^ 1])]
    path = tmp_path / "known.pdq"
    arrays = arrays_of("sha256", b"".join([*digests, *digests[:50]]))
    list_file.write(path, Header(category="weapons", counts={}), arrays)
    header, mapped = list_file.read(path)
    known = digests_in("sha256", mapped)
    assert header.category == "weapons"
    assert len(known) == 500
    assert all(each in known for each in digests)
    assert not any(each in known for each in near)
    assert len(digests_in("md5", mapped)) == 0
    assert random.bytes(16) not in digests_in("md5", mapped)


def test_the_revision_follows_the_contents(tmp_path: Path) -> None:
    header = Header(category="weapons", counts={})
    first = list_file.write(tmp_path / "a", header, arrays_of("md5", bytes(range(16))))
    again = list_file.write(tmp_path / "b", header, arrays_of("md5", bytes(range(16))))
    other = list_file.write(tmp_path / "c", header, arrays_of("md5", bytes(range(1, 17))))
    assert first.revision == again.revision != other.revision


def test_a_list_stays_mapped_when_its_file_is_replaced(tmp_path: Path) -> None:
    path, header = tmp_path / "known.pdq", Header(category="weapons", counts={})
    list_file.write(path, header, arrays_of("md5", bytes(range(16))))
    known = digests_in("md5", list_file.read(path)[1])
    list_file.write(path, header, arrays_of("md5", bytes(range(1, 17))))
    assert bytes(range(16)) in known
    assert [each.name for each in tmp_path.iterdir()] == ["known.pdq"]


@pytest.mark.parametrize("size", [0, 4, 12, 40, -40])
def test_a_file_that_is_cut_short(tmp_path: Path, size: int) -> None:
    path = tmp_path / "known.pdq"
    list_file.write(path, Header(category="weapons", counts={}), arrays_of("md5", bytes(range(64))))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InvalidList, match=r"known\.pdq"):
        list_file.read(path)


def test_a_file_with_a_turned_bit(tmp_path: Path) -> None:
    path = tmp_path / "known.pdq"
    header = list_file.write(path, Header(category="weapons", counts={}), arrays_of("md5", bytes(range(64))))
    raw = bytearray(path.read_bytes())
    raw[header.arrays["md5.tails"].offset] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InvalidList, match=r"damaged: md5\.tails"):
        list_file.read(path)


def test_what_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "known.pdq"
    path.write_text("hash_type,hash\n")
    with pytest.raises(InvalidList, match="darkroom moderation import"):
        list_file.read(path)
    with pytest.raises(InvalidList, match="No such file"):
        list_file.read(tmp_path / "none.pdq")
