"""The crawler: what it reads, what it leaves out and why, and that it does nothing twice. Pictures from the web come from the loopback."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpcore
import pytest

from cli.crawl import run as run_module
from cli.crawl.captions import tidy
from cli.crawl.fetch import Fetcher
from cli.crawl.folder import FolderSource
from cli.crawl.items import MAX_BYTES, Item, Reason, Skipped, Source, SourceFailed, Summary
from cli.crawl.journal import Journal
from cli.crawl.pace import Pace
from cli.crawl.pages import images_of, listed, web_address
from cli.crawl.run import Crawl
from cli.crawl.web import WebSource
from client import AsyncClient, BadRequest, ClientError, Throttled, Unavailable
from contracts.addresses import parse_networks
from contracts.pictures import MAX_CAPTION_CHARS
from tests.cli.web import Answer, Remembering, png, web

pytestmark = pytest.mark.anyio

LOOPBACK = parse_networks("127.0.0.0/8")


async def crawled(source: Source, server: Remembering, journal: Journal | None = None) -> Summary:
    return await Crawl(source, cast(AsyncClient, server), journal, lambda *_: None).run()


@pytest.fixture
async def fetcher(anyio_backend: str) -> AsyncIterator[Fetcher]:
    made = Fetcher(0.001, LOOPBACK)
    yield made
    await made.close()


async def test_a_folder_with_captions_and_with_what_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    (folder / "inner").mkdir(parents=True)
    files: dict[str, bytes] = {
        "a.png": png("red"),
        "a.txt": b"a red card\n\x07 of mine",
        "b.PNG": png("green"),
        "b.json": json.dumps({"caption": "a green card"}).encode(),
        "c.png": png("blue"),
        "c.png.txt": "ein blaues Blatt ☂".encode(),
        "inner/d.jpg": png("white"),
        "inner/d.txt": b"x" * 100_000,
        "e.webp": png("black"),
        "e.txt": b"\xff\xfe\xfa",
        "none.png": b"<html>",
        "empty.jpeg": b"",
        "large.png": png("pink").ljust(5_000),
        "notes.txt": b"no picture",
        ".hidden.png": png("grey"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    server = Remembering()
    summary = await crawled(FolderSource(folder, 4_000), server)
    found = {origin: caption for _, caption, origin in server.received}
    assert found == {
        "cards/a.png": "a red card of mine",
        "cards/b.PNG": "a green card",
        "cards/c.png": "ein blaues Blatt ☂",
        "cards/inner/d.jpg": "x" * MAX_CAPTION_CHARS,
        "cards/e.webp": "",
    }
    assert (summary.added, summary.known, summary.done) == (5, 0, 9)
    assert summary.left_out == {Reason.FORMAT: 2, Reason.BYTES: 1, Reason.UNREADABLE: 1}
    assert summary.notes == {Reason.CAPTION_CUT: 1, Reason.CAPTION_UNREADABLE: 1}
    again = await crawled(FolderSource(folder, 4_000), server)
    assert (again.added, again.known) == (0, 5)
    assert len(server.received) == 5, "what the server has is not sent again"


async def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())

    def denied(path: Any, onerror: Callable[[OSError], None]) -> Any:
        onerror(PermissionError(13, "Permission denied", str(path)))
        return iter(())

    source = FolderSource(tmp_path, MAX_BYTES)
    with pytest.MonkeyPatch.context() as patch:  # the tests may run as root, which reads everything
        patch.setattr(os, "walk", denied)
        with pytest.raises(SourceFailed, match="Permission denied"):
            await source.list()
    with pytest.raises(SourceFailed, match="No such file"):
        await FolderSource(tmp_path / "none", MAX_BYTES).list()


async def test_a_server_that_is_full_is_waited_for_and_one_that_refuses_a_picture_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(run_module, "WORKERS", 1)
    for colour in ("red", "green", "blue", "white"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    server = Remembering()
    server.faults = [
        Throttled("slower", status=429, details={"limit": "requests_per_minute"}, retry_after_s=7.0),
        Unavailable("later", status=503, retry_after_s=2.0),
        BadRequest("no", status=422, details={"reason": "pixels"}),
        BadRequest("no", status=413),
    ]
    summary = await crawled(FolderSource(tmp_path, MAX_BYTES), server)
    assert pauses == [7.0, 2.0]
    assert summary.left_out == {Reason.PIXELS: 1, Reason.BYTES: 1}
    assert summary.added == 2
    server.received.clear()
    server.faults = [Throttled("enough", status=429, details={"limit": "images_per_day"})]
    with pytest.raises(ClientError, match="enough"):
        await crawled(FolderSource(tmp_path, MAX_BYTES), server)
    server.faults = [Unavailable("away", status=503) for _ in range(50)]
    with pytest.raises(ClientError, match="away"):
        await crawled(FolderSource(tmp_path, MAX_BYTES), server)


def test_a_caption_fits_on_one_line() -> None:
    assert tidy("  a\tred\r\napple \ud83d\x00 ") == ("a red apple", None)
    assert tidy("x" * 3000) == ("x" * MAX_CAPTION_CHARS, Reason.CAPTION_CUT)


def test_a_list_has_an_address_and_perhaps_a_caption_on_each_line() -> None:
    text = (
        "# pictures\n\nhttps://a.example/1.png\ta red, ripe apple \nhttp://b.example/2.png#top\n"
        "https://a.example/1.png again\nftp://a.example/3.png\nno address at all\nhttps://user:pw@a.example/4.png\n"
        "https://a.example\\@b.example/\n" + "https://a.example/" + "x" * 3000
    )
    items, skipped = listed(text)
    assert items == [
        Item("https://a.example/1.png", "https://a.example/1.png", "a red, ripe apple"),
        Item("http://b.example/2.png", "http://b.example/2.png"),
    ]
    assert [fault.reason for _, fault in skipped] == [Reason.URL] * 5


def test_a_page_has_pictures_with_alternative_texts() -> None:
    html = """<base href="/cards/"><img src="1.png" alt="a red &amp; white card"><p><img alt="none">
    <img src="//other.example/2.png"><IMG SRC='data:image/png;base64,AAAA'><img src="1.png#again" alt="twice"><img src="javascript:x">"""
    found = images_of(html, web_address("https://a.example/page.html"))
    assert [(item.key, item.caption) for item in found] == [
        ("https://a.example/cards/1.png", "a red & white card"),
        ("https://other.example/2.png", ""),
    ]


def test_a_host_gets_its_turns() -> None:
    pace = Pace(2.0)
    assert [pace.turn("a", 10.0), pace.turn("a", 10.5), pace.turn("b", 10.5), pace.turn("a", 20.0)] == [
        0.0,
        1.5,
        0.0,
        0.0,
    ]
    pace.slow_down("a", 30.0)
    assert [pace.turn("a", 20.0), pace.turn("a", 20.0)] == [2.0, 32.0]
    pace.hold("b", 21.0, 5.0)
    assert pace.turn("b", 22.0) == 4.0


class NoDialer(httpcore.AsyncNetworkBackend):
    """Notes every connection that is tried."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.calls.append(host)
        raise httpcore.ConnectError


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "0x7f000001", "2130706433"]
)
async def test_no_inner_address_is_called(anyio_backend: str, host: str) -> None:
    dialer = NoDialer()
    fetcher = Fetcher(0.001, dialer=dialer)
    with pytest.raises(Skipped) as refused:
        await fetcher.get(f"http://{host}/a.png", 1000)
    assert refused.value.reason in (Reason.ADDRESS, Reason.ROBOTS)
    assert dialer.calls == []
    await fetcher.close()


async def test_a_redirect_inward_is_refused(anyio_backend: str) -> None:
    """The network of the first server is allowed, that of the second is not."""
    with web({"/a.png": (302, {"Location": "http://[::1]:9/b.png"}, b"")}) as outer:
        fetcher = Fetcher(0.001, LOOPBACK)
        with pytest.raises(Skipped) as refused:
            await fetcher.get(f"{outer.url}/a.png", 1000)
        assert refused.value.reason is Reason.ADDRESS
        await fetcher.close()


BUSY = iter([(429, {"Retry-After": "0"}, b""), (200, {}, png("yellow"))])


def pages() -> dict[str, Answer | Callable[[], Answer]]:
    return {
        "/robots.txt": (200, {}, b"User-agent: Darkroom\nDisallow: /secret/\nDisallow: /*.webp$\n"),
        "/1.png": (200, {"Content-Type": "image/png"}, png("red")),
        "/moved.png": (301, {"Location": "/2.png"}, b""),
        "/2.png": (200, {}, png("green")),
        "/loop.png": (302, {"Location": "/loop.png"}, b""),
        "/to-secret.png": (302, {"Location": "/secret/3.png"}, b""),
        "/secret/3.png": (200, {}, png("blue")),
        "/4.webp": (200, {}, png("white")),
        "/large.png": (200, {}, png("pink").ljust(5000)),
        "/page.html": (
            200,
            {"Content-Type": "text/html; charset=latin-1"},
            '<img src=2.png><img src="5.png" alt="ein gr\xfcnes Blatt"><img src="inner.html">'.encode(
                "latin-1"
            ),
        ),
        "/inner.html": (200, {"Content-Type": "text/html"}, b"<img src=1.png>"),
        "/5.png": (200, {}, png("black")),
        "/plain.html": (200, {"Content-Type": "text/html"}, b"<p>no picture"),
        "/film.mp4": (200, {"Content-Type": "video/mp4"}, b"\0\0\0\x18ftyp"),
        "/packed.png": (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"),
        "/redirect-to-no-url.png": (302, {"Location": "file:///etc/passwd"}, b""),
    }


async def test_a_list_of_addresses(tmp_path: Path, fetcher: Fetcher) -> None:
    names = [
        *(
            "1.png",
            "moved.png",
            "loop.png",
            "to-secret.png",
            "secret/3.png",
            "4.webp",
            "large.png",
            "page.html",
        ),
        *("plain.html", "film.mp4", "packed.png", "redirect-to-no-url.png", "nothing.png"),
    ]
    with web(pages()) as site:
        lines = [f"{site.url}/{name}" for name in names]
        lines[0] += "\ta red card"
        path = tmp_path / "list.txt"
        path.write_text("\n".join([*lines, "no address", "http://127.0.0.1:1/away.png"]))
        server = Remembering()
        summary = await crawled(WebSource(path, fetcher, 4_000), server)
        found = {data: caption for data, caption, _ in server.received}
        assert found == {png("red"): "a red card", png("green"): "", png("black"): "ein gr\xfcnes Blatt"}
        assert summary.left_out == {
            Reason.REDIRECTS: 1,
            Reason.ROBOTS: 4,  # with the address whose robots.txt is not answered
            Reason.BYTES: 1,
            Reason.EMPTY: 1,
            Reason.FORMAT: 2,
            Reason.UNREADABLE: 1,
            Reason.URL: 2,
            Reason.STATUS: 1,
        }, summary.examples
        assert summary.added + summary.known == 4, "2.png is met twice"
        assert site.asked.count("/robots.txt") == 1
        assert not {"/secret/3.png", "/4.webp"} & set(site.asked)
        assert all(agent.startswith("Darkroom/") for agent in site.agents)


@pytest.mark.parametrize(
    ("robots", "allowed"),
    [
        ((404, {}, b""), True),
        ((500, {}, b""), False),
        ((429, {}, b""), False),
        ((200, {}, b"\xff\xfe no rules at all \0"), True),
        ((200, {}, b"User-agent: *\nDisallow: /"), False),
        ((200, {}, b"User-agent: *\nDisallow: /\nUser-agent: darkroom\nAllow: /"), True),
        ((301, {"Location": "/robots.txt"}, b""), True),
    ],
)
async def test_robots_txt(fetcher: Fetcher, robots: Answer, allowed: bool) -> None:
    with web({"/robots.txt": robots, "/1.png": (200, {}, png())}) as site:
        if allowed:
            assert (await fetcher.get(f"{site.url}/1.png", 1000)).data == png()
        else:
            with pytest.raises(Skipped) as refused:
                await fetcher.get(f"{site.url}/1.png", 1000)
            assert refused.value.reason is Reason.ROBOTS
            assert "/1.png" not in site.asked


async def test_a_host_is_asked_no_faster_than_it_should(anyio_backend: str) -> None:
    fetcher = Fetcher(0.2, LOOPBACK)
    busy = [(429, {"Retry-After": "1"}, b""), (200, {}, png())]
    with web({"/1.png": (200, {}, png()), "/busy.png": lambda: busy.pop(0)}) as site:
        begun = time.monotonic()
        for _ in range(3):
            await fetcher.get(f"{site.url}/1.png", 1000)
        assert time.monotonic() - begun >= 0.6, "robots.txt and three files: three intervals"
        begun = time.monotonic()
        assert (await fetcher.get(f"{site.url}/busy.png", 1000)).data == png()
        assert time.monotonic() - begun >= 1.0
    await fetcher.close()


async def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, fetcher: Fetcher) -> None:
    """As after a kill: the journal has a line for each picture that was sent, and one that was cut short."""
    with web({f"/{number}.png": (200, {}, png((number, 0, 0))) for number in range(6)}) as site:
        urls = [f"{site.url}/{number}.png" for number in range(6)]
        path, journal = tmp_path / "list.txt", tmp_path / "j" / "one.journal"
        path.write_text("\n".join(urls[:3]))
        server, first = Remembering(), Journal(journal)
        await crawled(WebSource(path, fetcher, MAX_BYTES), server, first)
        with pytest.raises(SourceFailed, match="Another command"):
            Journal(journal)
        first.close(finished=False)
        with journal.open("a") as file:
            file.write("0123456789abcdef")
        path.write_text("\n".join(urls))
        # One of them the server has forgotten meanwhile.
        server.received = [each for each in server.received if each[2] != urls[1]]
        again = Journal(journal)
        summary = await crawled(WebSource(path, fetcher, MAX_BYTES), server, again)
        assert (summary.added, summary.known) == (4, 2)
        assert sorted(site.asked.count(f"/{number}.png") for number in range(6)) == [1, 1, 1, 1, 1, 2]
        assert site.asked.count("/1.png") == 2
        again.close(finished=False)
        whole = Journal(journal)
        assert set(whole.known) == set(urls)
        whole.close(finished=True)
        assert not journal.exists()
