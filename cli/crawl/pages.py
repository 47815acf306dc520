"""Lists of addresses, and the pictures of HTML pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Final

import httpx

from cli.crawl.items import Item, Reason, Skipped

MAX_URL_CHARS: Final = 2_048
MAX_IMAGES: Final = 500
"""Pictures of one page that are read."""


def listed(text: str) -> tuple[list[Item], list[tuple[str, Skipped]]]:
    """The addresses of a list, one on each line: `URL`, or `URL CAPTION` with white space between.

    Empty lines and lines that begin with `#` are left out, and so are repeated addresses.
    """
    items, skipped = dict[str, Item](), list[tuple[str, Skipped]]()
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        address, *rest = line.split(None, 1)
        try:
            url = str(web_address(address))
        except Skipped as fault:
            skipped.append((address[:MAX_URL_CHARS], fault))
            continue
        items.setdefault(url, Item(url, url, rest[0].strip() if rest else ""))
    return list(items.values()), skipped


def web_address(text: str) -> httpx.URL:
    """The address, without its fragment. Raises `Skipped`."""
    # Parsers treat backslashes and unprintable characters differently.
    plain = text.isprintable() and "\\" not in text and " " not in text and len(text) <= MAX_URL_CHARS
    try:
        url = httpx.URL(text) if plain else None
    except (httpx.InvalidURL, ValueError):
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise Skipped(Reason.URL)
    return url.copy_with(fragment=None)


def images_of(html: str, address: httpx.URL) -> Sequence[Item]:
    """The pictures of a page, each with its alternative text as caption. Those without an address are left out."""
    parser = _Images()
    parser.feed(html)
    parser.close()
    items = dict[str, Item]()
    base = address
    if parser.base:
        base = _joined(address, parser.base) or address
    for source, caption in parser.images:
        url = _joined(base, source)
        if url is not None:
            items.setdefault(str(url), Item(str(url), str(url), caption))
    return list(items.values())[:MAX_IMAGES]


def _joined(base: httpx.URL, reference: str) -> httpx.URL | None:
    try:
        return web_address(str(base.join(reference.strip())))
    except (Skipped, httpx.InvalidURL, ValueError):
        return None


class _Images(HTMLParser):
    """Collects `<img src alt>` and `<base href>`."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.images: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the element."""
        values = {name: value or "" for name, value in attrs}
        if tag == "base" and not self.base:
            self.base = values.get("href", "")
        elif tag == "img" and values.get("src"):
            self.images.append((values["src"], values.get("alt", "")))
