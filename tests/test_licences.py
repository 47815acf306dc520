"""The licence of every package that an image may hold is written down, and is one that somebody has accepted."""

from __future__ import annotations

import importlib.util
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def licences() -> Any:
    """The script. Its folder is no package, and a package of the same name is installed."""
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docker" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_as_the_packages_say(licences: Any) -> None:
    text = licences.PAGE.read_text()
    found = licences.ours()
    assert {"torch", "diffusers", "fastapi", "kombu", "celery", "redis", "hiredis"} <= found.keys()
    assert licences.page(text, found) == text, "python docker/licences.py writes it"


def test_every_licence_is_accepted(licences: Any) -> None:
    assert licences.strange(licences.ours()) == {}
    others = {"a": "GPL-3.0-only", "b": "", "c": "MIT AND AGPL-3.0-only", "d": "MIT OR (Apache-2.0 AND Zlib)"}
    assert licences.strange(others).keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "x")], "MIT OR Apache-2.0"),
        ([("License", "Apache 2.0")], "Apache-2.0"),
        (
            [("License", "Copyright\nAll rights"), ("Classifier", "License :: OSI Approved :: BSD License")],
            "BSD-3-Clause",
        ),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("License", "Shareware")], "Shareware"),
        ([], ""),
    ],
)
def test_a_licence_is_found_where_packages_put_it(
    licences: Any, fields: list[tuple[str, str]], found: str
) -> None:
    told = Message()
    for name, value in fields:
        told[name] = value
    assert licences.licence(told) == found
