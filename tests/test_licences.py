"""The licence of every package that an image may hold is written down, and is one that somebody has accepted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scripts import script

licences = script("licences")
lock = script("lock")


def test_the_page_is_as_the_packages_say() -> None:
    text = licences.PAGE.read_text()
    installed, page = licences.ours(), licences.rows(text)
    assert {"torch", "diffusers", "fastapi", "kombu", "celery", "redis", "hiredis"} <= installed.keys()
    assert {name: page.get(name) for name in installed} == installed, "make lock writes it"
    assert licences.page(text, page) == text, "in order"


def test_the_page_lists_what_is_locked() -> None:
    locked, page = lock.every(), licences.rows(licences.PAGE.read_text())
    assert {"torch", "triton", "nvidia-cublas", "xformers", "setuptools", "boto3"} <= locked.keys()
    assert set(page) == set(locked) | set(licences.ours()), "make lock writes it"


def test_every_licence_is_accepted() -> None:
    assert licences.strange(licences.rows(licences.PAGE.read_text())) == {}
    others = {"a": "GPL-3.0-only", "b": "", "c": "MIT AND AGPL-3.0-only", "d": "MIT OR (Apache-2.0 AND Zlib)"}
    assert licences.strange(others).keys() == {"a", "b", "c"}
    nvidias = {"nvidia-cublas": licences.NVIDIA, "cuda-toolkit": licences.NVIDIA, "numpy": licences.NVIDIA}
    assert licences.strange(nvidias).keys() == {"numpy"}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"license_expression": "MIT OR Apache-2.0", "license": "x"}, "MIT OR Apache-2.0"),
        ({"license": "Apache 2.0"}, "Apache-2.0"),
        (
            {
                "license": "Copyright\nAll rights",
                "classifier": ["Typing :: Typed", "License :: OSI Approved :: BSD License"],
            },
            "BSD-3-Clause",
        ),
        ({"classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"license": "Shareware"}, "Shareware"),
        ({}, ""),
    ],
)
def test_a_licence_is_found_where_packages_put_it(fields: dict[str, Any], found: str) -> None:
    assert licences.licence(licences.message(fields)) == found
