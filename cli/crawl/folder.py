"""The pictures of a folder and of the folders in it, with captions from the files beside them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from cli.crawl.captions import MAX_SIDECAR_BYTES, caption_in, sidecars_of
from cli.crawl.items import SUFFIXES, Item, Listing, Loaded, Reason, Skipped, SourceFailed

HIDDEN: Final = "."


class FolderSource:
    """The `Source` of a folder. Links to folders are not followed, hidden names left out."""

    local = True

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    async def list(self) -> Listing:
        """Every file whose name ends as a picture's does, in order. Raises `SourceFailed`."""
        return await asyncio.to_thread(self._list)

    async def load(self, item: Item) -> Loaded:
        """The file, and its caption. Raises `Skipped`."""
        return await asyncio.to_thread(self._load, Path(item.key))

    async def close(self) -> None:
        """Nothing to close."""

    def _list(self) -> Listing:
        items, skipped = list[Item](), list[tuple[str, Skipped]]()

        def unreadable(error: OSError) -> None:
            skipped.append((str(error.filename), Skipped(Reason.FOLDER, error.strerror or "")))

        for folder, inner, files in os.walk(self._folder, onerror=unreadable):
            inner[:] = sorted(name for name in inner if not name.startswith(HIDDEN))
            for name in sorted(files):
                if name.lower().endswith(SUFFIXES) and not name.startswith(HIDDEN):
                    path = Path(folder) / name
                    origin = f"{self._folder.resolve().name}/{path.relative_to(self._folder).as_posix()}"
                    items.append(Item(str(path), origin))
        if not items and skipped and skipped[0][0] == str(self._folder):
            raise SourceFailed(f"{self._folder}: {skipped[0][1].detail}.")
        return Listing(items, skipped)

    def _load(self, path: Path) -> Loaded:
        data = self._read(path, self._max_bytes)
        if len(data) > self._max_bytes:
            raise Skipped(Reason.BYTES)
        for name in sidecars_of(path.name):
            beside = path.with_name(name)
            if not beside.is_file():
                continue
            try:
                return Loaded(data, caption_in(name, self._read(beside, MAX_SIDECAR_BYTES)))
            except (Skipped, ValueError, RecursionError):
                return Loaded(data, note=Reason.CAPTION_UNREADABLE)
        return Loaded(data)

    def _read(self, path: Path, limit: int) -> bytes:
        """At most a byte more than `limit`. Raises `Skipped`."""
        try:
            if not path.is_file():  # reading a pipe would not end
                raise Skipped(Reason.UNREADABLE, "not a file")
            with path.open("rb") as file:
                return file.read(limit + 1)
        except OSError as error:
            raise Skipped(Reason.UNREADABLE, error.strerror or "") from None
