"""The pictures of a list of addresses: of files, and of pages that show them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from cli.crawl.fetch import Answer, Fetcher
from cli.crawl.items import Item, Listing, Loaded, Reason, Skipped, SourceFailed, looks_like_picture
from cli.crawl.pages import images_of, listed

MAX_LIST_BYTES: Final = 256 * 2**20
MAX_PAGE_CHARS: Final = 2 * 2**20
"""What of a page is read."""
PAGES: Final = ("text/html", "application/xhtml+xml")
_CHARSET: Final = re.compile(r"charset=\"?([\w-]+)", re.ASCII | re.IGNORECASE)


class WebSource:
    """The `Source` of a text file of addresses."""

    local = False

    def __init__(self, path: Path, fetcher: Fetcher, max_bytes: int) -> None:
        self._path = path
        self._fetcher = fetcher
        self._max_bytes = max_bytes

    async def list(self) -> Listing:
        """The addresses of the list. Raises `SourceFailed`."""
        return await asyncio.to_thread(self._list)

    async def load(self, item: Item) -> Loaded:
        """The picture at an address, or the pictures of the page there. Raises `Skipped`."""
        answer = await self._fetcher.get(item.key, self._max_bytes)
        if answer.content_type in PAGES and not looks_like_picture(answer.data):
            items = await asyncio.to_thread(images_of, _text(answer)[:MAX_PAGE_CHARS], answer.url)
            if not items:
                raise Skipped(Reason.EMPTY)
            return Loaded(items=items)
        return Loaded(answer.data, item.caption)

    async def close(self) -> None:
        """Close the connections."""
        await self._fetcher.close()

    def _list(self) -> Listing:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except OSError as error:
            raise SourceFailed(f"{self._path}: {error.strerror}.") from None
        if len(data) > MAX_LIST_BYTES:
            raise SourceFailed(f"{self._path} is larger than {MAX_LIST_BYTES // 2**20} MiB.")
        items, skipped = listed(data.decode("utf-8-sig", "replace"))
        return Listing(items, skipped)


def _text(answer: Answer) -> str:
    match = _CHARSET.search(answer.headers.get("content-type", ""))
    try:
        return answer.data.decode(match[1] if match else "utf-8", "replace")
    except LookupError:
        return answer.data.decode("utf-8", "replace")
