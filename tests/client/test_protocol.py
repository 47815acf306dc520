"""The protocol of the client: retries, errors, events. No I/O."""

from __future__ import annotations

import httpx
import pytest
from httpx_sse import EventSource

from client import errors, protocol
from client.models import Event, Job
from client.protocol import Bearer, EventReader, Retrier


def answer(status: int, headers: dict[str, str] | None = None, **json: object) -> httpx.Response:
    return httpx.Response(status, headers=headers, json=json)


@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 422, 500])
def test_what_is_final_is_not_tried_again(status: int) -> None:
    assert Retrier().after(answer(status)) is None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again_as_late_as_the_server_asks(status: int) -> None:
    assert Retrier().after(answer(status, {"Retry-After": "7"})) == 7.0
    patience = Retrier(4)
    waits = [wait for _ in range(9) if (wait := patience.after(answer(status))) is not None]
    assert len(waits) == 4
    assert waits == sorted(waits), "longer each time"


def test_no_wait_is_endless_and_a_date_is_no_number() -> None:
    assert Retrier().after(answer(503, {"Retry-After": "9999999"})) == protocol.MAX_BACKOFF_S
    assert protocol.retry_after_s(answer(503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (410, errors.Gone),
        (422, errors.BadRequest),
        (429, errors.Throttled),
        (500, errors.ServerError),
        (503, errors.Unavailable),
    ],
)
def test_every_refusal_has_its_class(status: int, kind: type[errors.ApiError]) -> None:
    error = {"code": "c", "message": "m", "param": "p", "request_id": "r", "details": {"a": 1}}
    with pytest.raises(kind) as caught:
        protocol.parsed(Job, answer(status, {"Retry-After": "3"}, error=error))
    found = caught.value
    assert (found.code, found.param, found.request_id, found.details) == ("c", "p", "r", {"a": 1})
    assert (str(found), found.status, found.retry_after_s) == ("m", status, 3.0)


def test_what_a_policy_does_not_allow_has_a_class_of_its_own() -> None:
    error = {"code": "content_blocked", "message": "m", "param": "prompt", "details": {"category": "weapons"}}
    with pytest.raises(errors.ContentBlocked) as caught:
        protocol.parsed(Job, answer(422, {}, error=error))
    assert isinstance(caught.value, errors.BadRequest)
    assert (caught.value.category, caught.value.param) == ("weapons", "prompt")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"error": null}'])
def test_a_refusal_of_a_proxy_is_one_too(body: bytes) -> None:
    with pytest.raises(errors.ServerError, match="502"):
        protocol.parsed(Job, httpx.Response(502, content=body))


def test_an_answer_that_is_not_ours() -> None:
    with pytest.raises(errors.ServerError, match="is it a Darkroom"):
        protocol.parsed(Job, httpx.Response(200, content=b"<html>"))


def test_events_are_read_as_the_standard_has_it() -> None:
    reader = EventReader()
    text = ':beat\n\nevent: snapshot\nid: 1\ndata: {"a":\ndata: 1}\n\n:beat\n\nid: 2\ndata: plain\n\nevent: nothing\n\nretry: 5\n\nid: 3\n'
    stream = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)
    found = [event for sent in EventSource(stream).iter_sse() if (event := reader.read(sent)) is not None]
    assert found == [
        Event(name="snapshot", data={"a": 1}, id="1"),
        Event(name="message", data="plain", id="2"),
    ]
    assert reader.last_id == "2", "an event that was not read whole is sent again"


def test_the_key_is_told_to_its_own_server_alone() -> None:
    auth = Bearer("http://here:8000", "dk_secret")
    for url, told in (
        ("http://here:8000/v1", True),
        ("http://there:8000/", False),
        ("https://here:8000/", False),
    ):
        request = next(auth.auth_flow(httpx.Request("GET", url)))
        assert ("Authorization" in request.headers) is told


def test_what_is_not_given_is_not_sent() -> None:
    assert protocol.submission("p", {"seed": None, "n": 0, "negative_prompt": ""}) == {
        "prompt": "p",
        "n": 0,
        "negative_prompt": "",
    }


def test_the_environment_names_server_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_SERVER", "http://there:9/")
    monkeypatch.setenv("DARKROOM_API_KEY", "dk_env")
    assert protocol.server_address(None) == "http://there:9"
    assert protocol.server_address("http://here/") == "http://here"
    request = next(Bearer("http://there:9", None).auth_flow(httpx.Request("GET", "http://there:9/")))
    assert request.headers["Authorization"] == "Bearer dk_env"
