"""The body that nobody read: how much of it is read on, for how long, and when it is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api import early_answers
from api.early_answers import EarlyAnswers, has_body

pytestmark = pytest.mark.anyio

CHUNK = 1000
Headers = list[tuple[bytes, bytes]]


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


async def having_read_a_part(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await refusing(scope, receive, send)


class Client:
    """Sends `parts` chunks, and then no more: `ends` says whether the last one is the end of the body."""

    def __init__(self, parts: int, *, ends: bool = True) -> None:
        self._parts = parts
        self._ends = ends
        self.sent = 0
        self.heard: list[Message] = []

    async def receive(self) -> Message:
        if self.sent == self._parts:
            await asyncio.Event().wait()
        self.sent += 1
        more = self.sent < self._parts or not self._ends
        return {"type": "http.request", "body": b"x" * CHUNK, "more_body": more}

    async def send(self, message: Message) -> None:
        self.heard.append(message)

    async def ask(self, headers: Headers, app: Any = refusing) -> bool:
        """Whether the answer lets the connection live."""
        async with asyncio.timeout(5):
            await EarlyAnswers(app)({"type": "http", "headers": headers}, self.receive, self.send)
        assert [message["type"] for message in self.heard] == ["http.response.start", "http.response.body"]
        return (b"connection", b"close") not in self.heard[0]["headers"]


CHUNKED: Headers = [(b"transfer-encoding", b"chunked")]


def long(size: int) -> Headers:
    return [(b"content-length", b"%d" % size)]


@pytest.mark.parametrize("app", [refusing, having_read_a_part])
async def test_what_is_left_is_read_before_the_answer(app: Any) -> None:
    client = Client(5)
    assert await client.ask(CHUNKED, app)
    assert client.sent == 5


async def test_a_known_length_is_an_end_too() -> None:
    client = Client(3, ends=False)
    assert await client.ask(long(3 * CHUNK))
    assert client.sent == 3


async def test_an_endless_body_is_read_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_answers, "MAX_DISCARDED_BYTES", 10 * CHUNK)
    client = Client(1000)
    assert not await client.ask(CHUNKED)
    assert client.sent == 11


async def test_a_body_that_says_it_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_answers, "MAX_DISCARDED_BYTES", 10 * CHUNK)
    client = Client(11)
    assert not await client.ask(long(11 * CHUNK))
    assert client.sent == 0


async def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_answers, "MAX_DISCARD_S", 0.05)
    client = Client(2, ends=False)
    assert not await client.ask(CHUNKED)
    assert client.sent == 2


async def test_a_client_that_waits_for_100_is_not_told_to_go_on() -> None:
    expects = [*long(3 * CHUNK), (b"expect", b"100-Continue")]
    client = Client(3)
    assert not await client.ask(expects)
    assert client.sent == 0
    client = Client(3)
    assert await client.ask(expects, having_read_a_part), "it was told to, so the rest comes"
    assert client.sent == 3


@pytest.mark.parametrize(
    ("headers", "there_is_one"), [([], False), (long(0), False), (long(1), True), (CHUNKED, True)]
)
def test_a_request_announces_its_body(headers: Headers, there_is_one: bool) -> None:
    assert has_body({"type": "http", "headers": headers}) == there_is_one
