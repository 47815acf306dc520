"""What an image file says in words. Runs in the child process. Pure, except for memory and time.

Read are texts of PNG, comments of JPEG, Exif's and IPTC's titles, descriptions, comments and keywords, and
XMP. Names of tags and addresses are not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from PIL import Image, ImageFile, IptcImagePlugin

from api.pictures.prepare import FORMATS

MAX_CHARS: Final = 65_536
"""The most characters that are read. What comes after is left out."""
_EXIF: Final = {0x010D: "ascii", 0x010E: "ascii", 0x013B: "ascii"}
"""DocumentName, ImageDescription, Artist (Exif 2.32, 4.6.4)."""
_EXIF_WIDE: Final = (0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)
"""XPTitle, XPComment, XPAuthor, XPKeywords, XPSubject: UTF-16."""
_USER_COMMENT: Final = 0x9286
_EXIF_IFD: Final = 0x8769
_IPTC: Final = ((2, 5), (2, 25), (2, 40), (2, 105), (2, 116), (2, 120))
"""Title, keywords, instructions, headline, copyright, caption (IIM 4.2)."""
_XMP_TEXT: Final = re.compile(r">([^<>]+)<|=\s*\"([^\"<>]*)\"|=\s*'([^'<>]*)'")
_ADDRESS: Final = re.compile(r"^\w+:[^\s]*$")


def texts(data: bytes) -> str:
    """All texts of the file `data`, one a line. Parts that cannot be read are left out."""
    found: list[str] = []
    with suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        if picture.format == "PNG":
            picture.load()  # texts may come after the pixels
        for read in (_chunks, _exif, _iptc):
            with suppress(Exception):
                found += read(picture)
    return "\n".join(dict.fromkeys(filter(None, map(str.strip, found))))[:MAX_CHARS]


def _chunks(picture: Image.Image) -> Iterator[str]:
    for name, value in picture.info.items():
        if name in ("xmp", "XML:com.adobe.xmp"):
            yield from _xmp(_text(value))
        elif name == "comment" or isinstance(value, str):
            yield _text(value)


def _exif(picture: Image.Image) -> Iterator[str]:
    exif = picture.getexif()
    for tag in _EXIF:
        yield _text(exif.get(tag, ""))
    for tag in _EXIF_WIDE:
        raw = exif.get(tag, b"")
        yield bytes(raw).decode("utf-16-le", "ignore").strip("\0") if raw else ""
    yield _comment(exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT, b""))


def _iptc(picture: ImageFile.ImageFile) -> Iterator[str]:
    fields = IptcImagePlugin.getiptcinfo(picture) or {}
    for name in _IPTC:
        values: Any = fields.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            yield _text(value)


def _xmp(document: str) -> Iterator[str]:
    """Texts and values of attributes, without tags and addresses. No parser: the document may be forged."""
    for match in _XMP_TEXT.finditer(document):
        text = next(filter(None, match.groups()), "").strip()
        if not _ADDRESS.match(text):
            yield text


def _comment(raw: Any) -> str:
    """A UserComment: eight bytes say its character code (Exif 2.32, 4.6.5)."""
    if isinstance(raw, str):
        return raw
    code, rest = bytes(raw)[:8], bytes(raw)[8:]
    if code.startswith(b"UNICODE"):
        wide = "utf-16-be" if rest[:1] == b"\0" else "utf-16-le"
        return rest.decode(wide, "ignore").strip("\0\ufeff")
    return _text(rest)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0")
    return value if isinstance(value, str) else ""
