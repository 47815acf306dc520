"""A search that fails is answered with 503, and is counted by its cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.pictures.decoders import Decoders
from api.search import SearchClient
from cli.services import process
from contracts.errors import PictureNotIndexed, SearchOff, SearchUnavailable
from contracts.settings import ApiSettings
from telemetry import metrics, series

pytestmark = pytest.mark.anyio


def reply(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@asynccontextmanager
async def answering(with_: bytes | None) -> AsyncIterator[str]:
    """The URL of a server that always answers so; None: never."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if with_ is None:
            await reader.read()
        else:
            writer.write(with_)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def asking(url: str | None, timeout_s: float = 30.0) -> AsyncIterator[SearchClient]:
    settings = ApiSettings(search_url=url, search_timeout_s=timeout_s)
    client = SearchClient(settings, Decoders(settings))
    try:
        yield client
    finally:
        await client.close()


def counted() -> dict[str, float]:
    return {cause: metrics.SEARCH_FAILED.labels(cause)._value.get() for cause in series.SEARCH_FAILURES}


async def fails(url: str | None, timeout_s: float = 30.0) -> set[str]:
    """The causes that are counted by a failed search."""
    before = counted()
    async with asking(url, timeout_s) as client:
        with pytest.raises(SearchUnavailable):
            await client.state()
    return {cause for cause, count in counted().items() if count == before[cause] + 1}


async def test_a_search_process_that_is_away() -> None:
    assert await fails(f"http://127.0.0.1:{process.free_port()}") == {"away"}


async def test_a_search_process_that_does_not_answer() -> None:
    async with answering(None) as url:
        assert await fails(url, timeout_s=0.2) == {"timeout"}


@pytest.mark.parametrize(
    "answer",
    [
        reply("503 x", '{"error": {"code": "store_unavailable", "message": "m", "param": null}}'),
        reply("500 x", "no JSON"),
    ],
)
async def test_a_search_process_whose_index_is_away(answer: bytes) -> None:
    async with answering(answer) as url:
        assert await fails(url) == {"unavailable"}


async def test_what_is_no_failure_is_not_counted() -> None:
    before = counted()
    answer = reply("404 x", '{"error": {"code": "picture_not_indexed", "message": "m", "param": null}}')
    async with answering(answer) as url, asking(url) as client:
        with pytest.raises(PictureNotIndexed):
            await client.state()
    async with asking(None) as off:
        with pytest.raises(SearchOff):
            await off.state()
    assert counted() == before
