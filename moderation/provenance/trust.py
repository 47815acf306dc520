"""Whose signatures are trusted."""

from __future__ import annotations

from pathlib import Path


def anchors(path: Path | None) -> str:
    """The certificates of a file in PEM, whose holders are trusted; "" without a file.

    Raises `ValueError`, which says what is wrong with the file.
    """
    if path is None:
        return ""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in PEM") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"{path} holds no certificate in PEM")
    return text
