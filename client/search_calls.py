"""The calls of the search; sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Unpack

from client import protocol
from client.calls import AsyncCalls, Calls
from client.search import (
    IMPORTS,
    Imported,
    KnownFiles,
    Named,
    SearchFilters,
    SearchIndex,
    SearchPage,
    import_body,
    import_path,
    name_of,
    paging,
    query,
    similar_path,
)


class SearchCalls(Calls):
    """The calls of `Client`."""

    def search(
        self,
        q: str = "",
        *,
        image: bytes | None = None,
        like: Named | None = None,
        limit: int = 20,
        cursor: str | None = None,
        **filters: Unpack[SearchFilters],
    ) -> SearchPage:
        """Returns up to `limit` images that show what `q` says, best first; without a query the newest.

        Instead of `q`, give `image` (the bytes of a PNG, JPEG or WebP) or `like` (an image of the
        platform). `cursor` is the `next_cursor` of the previous page of the same query. Raises
        `ApiError`, `ConnectionFailed`.
        """
        body = query(q, image, like, filters, limit, cursor)
        return protocol.parsed(SearchPage, self._send("POST", "/v1/search", json=body))

    def search_pages(
        self,
        q: str = "",
        *,
        image: bytes | None = None,
        like: Named | None = None,
        limit: int = 100,
        **filters: Unpack[SearchFilters],
    ) -> Iterator[SearchPage]:
        """Yields all pages of a search, each with up to `limit` hits. Raises `ApiError`, `ConnectionFailed`."""
        cursor: str | None = None
        while True:
            page = self.search(q, image=image, like=like, limit=limit, cursor=cursor, **filters)
            yield page
            if (cursor := page.next_cursor) is None:
                return

    def similar(self, image: Named, *, limit: int = 20, cursor: str | None = None) -> SearchPage:
        """Returns images that look like an image of the platform, the most similar first.

        Raises `ApiError`, `ConnectionFailed`.
        """
        params = paging(limit, cursor)
        return protocol.parsed(SearchPage, self._send("GET", similar_path(image), params=params))

    def import_image(self, image: bytes, *, caption: str = "", origin: str = "") -> Imported:
        """Imports an image (the bytes of a PNG, JPEG or WebP) into your search.

        `origin` is the address or path that it comes from. Raises `ApiError`, `ConnectionFailed`.
        """
        body = import_body(image, caption, origin)
        return protocol.parsed(Imported, self._send("POST", IMPORTS, json=body))

    def imported_files(self, sha256: Sequence[str]) -> dict[str, str]:
        """Returns which files of these hashes (at most 100) you have imported. Raises `ApiError`, `ConnectionFailed`."""
        response = self._send("POST", f"{IMPORTS}/known", json={"sha256": [*sha256]})
        return {file.sha256: file.name for file in protocol.parsed(KnownFiles, response).data}

    def remove_image(self, image: Named) -> None:
        """Deletes an image that you have imported. Raises `ApiError`, `ConnectionFailed`."""
        if (response := self._send("DELETE", import_path(image))).is_error:
            protocol.refuse(response)

    def search_clicked(self, query: str, image: Named) -> None:
        """Reports the hit of a search for `query` that a person chose. It moves up in later searches.

        Raises `ApiError`, `ConnectionFailed`.
        """
        body = {"query": query, "image": name_of(image)}
        response = self._send("POST", "/v1/search/clicks", json=body)
        if response.is_error:
            protocol.refuse(response)

    def search_index(self) -> SearchIndex:
        """Returns what the search index holds. Needs the scope admin. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(SearchIndex, self._send("GET", "/v1/admin/search"))

    def rebuild_search_index(self) -> SearchIndex:
        """Begins to fill the search index again from the records. Needs the scope admin.

        `search_index` says how far it has come. Raises `ApiError`, `ConnectionFailed`.
        """
        return protocol.parsed(SearchIndex, self._send("POST", "/v1/admin/search/rebuild"))


class AsyncSearchCalls(AsyncCalls):
    """The calls of `AsyncClient`."""

    async def search(
        self,
        q: str = "",
        *,
        image: bytes | None = None,
        like: Named | None = None,
        limit: int = 20,
        cursor: str | None = None,
        **filters: Unpack[SearchFilters],
    ) -> SearchPage:
        """Returns up to `limit` images that show what `q` says, best first; without a query the newest.

        Instead of `q`, give `image` (the bytes of a PNG, JPEG or WebP) or `like` (an image of the
        platform). `cursor` is the `next_cursor` of the previous page of the same query. Raises
        `ApiError`, `ConnectionFailed`.
        """
        body = query(q, image, like, filters, limit, cursor)
        return protocol.parsed(SearchPage, await self._send("POST", "/v1/search", json=body))

    async def search_pages(
        self,
        q: str = "",
        *,
        image: bytes | None = None,
        like: Named | None = None,
        limit: int = 100,
        **filters: Unpack[SearchFilters],
    ) -> AsyncIterator[SearchPage]:
        """Yields all pages of a search, each with up to `limit` hits. Raises `ApiError`, `ConnectionFailed`."""
        cursor: str | None = None
        while True:
            page = await self.search(q, image=image, like=like, limit=limit, cursor=cursor, **filters)
            yield page
            if (cursor := page.next_cursor) is None:
                return

    async def similar(self, image: Named, *, limit: int = 20, cursor: str | None = None) -> SearchPage:
        """Returns images that look like an image of the platform, the most similar first.

        Raises `ApiError`, `ConnectionFailed`.
        """
        params = paging(limit, cursor)
        return protocol.parsed(SearchPage, await self._send("GET", similar_path(image), params=params))

    async def import_image(self, image: bytes, *, caption: str = "", origin: str = "") -> Imported:
        """Imports an image (the bytes of a PNG, JPEG or WebP) into your search.

        `origin` is the address or path that it comes from. Raises `ApiError`, `ConnectionFailed`.
        """
        body = import_body(image, caption, origin)
        return protocol.parsed(Imported, await self._send("POST", IMPORTS, json=body))

    async def imported_files(self, sha256: Sequence[str]) -> dict[str, str]:
        """Returns which files of these hashes (at most 100) you have imported. Raises `ApiError`, `ConnectionFailed`."""
        response = await self._send("POST", f"{IMPORTS}/known", json={"sha256": [*sha256]})
        return {file.sha256: file.name for file in protocol.parsed(KnownFiles, response).data}

    async def remove_image(self, image: Named) -> None:
        """Deletes an image that you have imported. Raises `ApiError`, `ConnectionFailed`."""
        if (response := await self._send("DELETE", import_path(image))).is_error:
            protocol.refuse(response)

    async def search_clicked(self, query: str, image: Named) -> None:
        """Reports the hit of a search for `query` that a person chose. It moves up in later searches.

        Raises `ApiError`, `ConnectionFailed`.
        """
        body = {"query": query, "image": name_of(image)}
        response = await self._send("POST", "/v1/search/clicks", json=body)
        if response.is_error:
            protocol.refuse(response)

    async def search_index(self) -> SearchIndex:
        """Returns what the search index holds. Needs the scope admin. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(SearchIndex, await self._send("GET", "/v1/admin/search"))

    async def rebuild_search_index(self) -> SearchIndex:
        """Begins to fill the search index again from the records. Needs the scope admin.

        `search_index` says how far it has come. Raises `ApiError`, `ConnectionFailed`.
        """
        return protocol.parsed(SearchIndex, await self._send("POST", "/v1/admin/search/rebuild"))
