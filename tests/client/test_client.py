"""Both clients against a running platform: the same calls, the same answers. And against servers that falter."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import client as package
from api.job_request import JobRequest
from api.routes.keys import KeyRequest
from api.search import SearchRequest
from benchmarks.lib.platform import FAKE
from cli.services import process
from client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    JobFailed,
    JobFields,
    KeyFields,
    NotFound,
    SearchFilters,
    StillRunning,
)
from client.errors import BadRequest, ClientError, ServerError, Throttled
from contracts.tenancy import new_token
from tests.client.conftest import Opener
from tests.integration.conftest import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {**FAKE, "DARKROOM_ADMIN_KEY": new_token()}
    with Stack.open(settings, tmp_path_factory.mktemp("client"), broker=False) as running:
        yield running


@pytest.mark.slow
def test_the_way_of_a_job(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url)
    assert darkroom.ready()
    job = darkroom.submit("slow=0.3", seed="random", num_images=2)
    assert not job.ended
    done = darkroom.wait(job)
    assert (done.status, len(done.images)) == ("succeeded", 2)
    assert darkroom.image(done.images[0]).startswith(b"\x89PNG")
    assert darkroom.job(job.id) == done
    page = darkroom.jobs(limit=1)
    assert page.data[0].id == job.id
    again = darkroom.generate("slow=0.3", seed=job.request["seed"], num_images=2)
    assert again.cache == "hit"
    assert {model.id for model in darkroom.models()} == {"fake"}


@pytest.mark.slow
def test_a_picture_in_the_making(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url)
    job = darkroom.submit("slow=1", seed="random", num_inference_steps=4, previews=2, output_format="webp")
    shown = [event.data["url"] for event in darkroom.events(job) if event.name == "preview"]
    assert len(shown) == 2
    assert len({darkroom.image(url) for url in shown}) == 2
    (image,) = darkroom.wait(job).images
    assert image.content_type == "image/webp"


@pytest.mark.slow
def test_cancel_and_failure_and_time(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url)
    held = darkroom.submit("slow=5", seed="random")
    with pytest.raises(StillRunning) as still:
        darkroom.wait(held, timeout_s=0.2)
    assert still.value.job.id == held.id
    assert darkroom.cancel(held.id).status == "canceled"
    with pytest.raises(JobFailed, match="failed") as failed:
        darkroom.generate("fault:raise", seed="random")
    assert failed.value.job.error is not None
    with pytest.raises(NotFound) as unknown:
        darkroom.job("job_nonsense")
    assert (unknown.value.code, unknown.value.status) == ("job_not_found", 404)
    with pytest.raises(BadRequest) as bad:
        darkroom.submit("a", width=7)
    assert (bad.value.param, bad.value.status) == ("width", 422)


@pytest.mark.slow
def test_events_end_in_time(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url)
    job = darkroom.submit("slow=30", seed="random")
    begun = time.monotonic()
    with pytest.raises(StillRunning):
        list(darkroom.events(job, 0.3))
    assert time.monotonic() - begun < 10, "the job itself takes longer"
    assert darkroom.cancel(job.id).status == "canceled"


@pytest.mark.slow
def test_what_operators_do(stack: Stack, opened: Opener) -> None:
    darkroom = opened(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"])
    made = darkroom.create_key("acme", name="shop", burst=3, requests_per_minute=None)
    assert (made.tenant, made.limits["burst"]) == ("acme", 3)
    tenants = opened(stack.url, api_key=made.key)
    job = tenants.generate("a picture of acme", seed="random")
    assert [key.id for key in darkroom.keys(tenant="acme") if key.revoked_at is None] == [made.id]
    assert darkroom.cache_stats().misses >= 1
    assert darkroom.purge_cache(tenant="acme") >= 0
    assert tenants.webhook_delivery(job.id).url is None
    first = tenants.webhook_secret()
    assert tenants.rotate_webhook_secret().previous == first.secret
    assert darkroom.revoke_key(made.id).revoked_at is not None


def test_a_key_is_not_made_twice_by_a_lost_answer(opened: Opener) -> None:
    with scripted(None, None) as (url, seen), pytest.raises(ConnectionFailed):
        opened(url).create_key("acme")
    assert len(seen) == 1


def test_nobody_there(opened: Opener) -> None:
    darkroom = opened(f"http://127.0.0.1:{process.free_port()}", retries=0)
    assert not darkroom.ready()
    with pytest.raises(ConnectionFailed, match="does not answer"):
        darkroom.submit("a")


JOB = (
    b'{"id": "job_1", "status": "%s", "created_at": 1.0, "cache": "miss", "request": {}, "new_field": 1, '
    b'"urls": {"self": "/v1/jobs/job_1", "cancel": "/c", "events": "/events"}}'
)


@contextmanager
def scripted(*answers: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these answers one after the other: (status, headers, body), or None to hang up."""
    left, seen = list(answers), list[dict[str, str]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append({k.lower(): v for k, v in self.headers.items()})
            found = left.pop(0)
            if found is None:
                self.close_connection = True
                self.connection.close()
                return
            status, headers, body = found
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the interface of http.server

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_passes_is_tried_again_under_one_idempotency_key(opened: Opener) -> None:
    busy = (503, {"Retry-After": "0"}, b'{"error": {"code": "queue_full", "message": "full"}}')
    with scripted(busy, None, (202, {}, JOB % b"queued")) as (url, seen):
        assert opened(url).submit("a").id == "job_1"
    assert len({headers["idempotency-key"] for headers in seen}) == 1
    assert len(seen) == 3


def test_patience_ends(opened: Opener) -> None:
    busy = (429, {"Retry-After": "0"}, b'{"error": {"code": "rate_limited", "message": "slower"}}')
    with scripted(busy, busy, busy) as (url, seen), pytest.raises(Throttled, match="slower"):
        opened(url, retries=2).submit("a")
    assert len(seen) == 3


def test_a_stream_of_events_that_breaks_is_resumed_where_it_broke(opened: Opener) -> None:
    first = (
        b'event: snapshot\nid: 0\ndata: {"status": "queued"}\n\nevent: progress\nid: 1\ndata: {"step": 1}\n\n'
    )
    second = b'event: status\nid: 2\ndata: {"status": "succeeded"}\n\n'
    stream = {"Content-Type": "text/event-stream"}
    with scripted((202, {}, JOB % b"queued"), (200, stream, first), (200, stream, second)) as (url, seen):
        darkroom = opened(url)
        told = list(darkroom.events(darkroom.submit("a")))
    assert [(event.name, event.id) for event in told] == [
        ("snapshot", "0"),
        ("progress", "1"),
        ("status", "2"),
    ]
    assert "last-event-id" not in seen[1]
    assert seen[2]["last-event-id"] == "1"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_an_event_may_hold_what_other_texts_take_for_the_end_of_a_line(opened: Opener, mark: str) -> None:
    """JSON has these characters as they are; the lines of a stream end at CR and LF alone."""
    body = f'event: status\nid: 0\ndata: {{"status": "succeeded", "prompt": "a{mark}b"}}\n\n'.encode()
    stream = {"Content-Type": "text/event-stream; charset=utf-8"}
    with scripted((202, {}, JOB % b"queued"), (200, stream, body)) as (url, _):
        darkroom = opened(url)
        (event,) = darkroom.events(darkroom.submit("a"))
    assert event.data == {"status": "succeeded", "prompt": f"a{mark}b"}


def test_an_event_that_broke_off_is_asked_for_again(opened: Opener) -> None:
    stream = {"Content-Type": "text/event-stream"}
    first = b'event: snapshot\nid: 0\ndata: {"status": "queued"}\n\nevent: status\nid: 1\ndata: {"sta'
    second = b'event: status\nid: 1\ndata: {"status": "succeeded"}\n\n'
    with scripted((202, {}, JOB % b"queued"), (200, stream, first), (200, stream, second)) as (url, seen):
        darkroom = opened(url)
        events = list(darkroom.events(darkroom.submit("a")))
    assert [event.id for event in events] == ["0", "1"]
    assert seen[2]["last-event-id"] == "0"


def test_a_stream_that_is_not_of_events_is_refused(opened: Opener) -> None:
    page = (200, {"Content-Type": "text/html"}, b"<html>a proxy's page</html>")
    with scripted((202, {}, JOB % b"queued"), page) as (url, seen):
        darkroom = opened(url)
        with pytest.raises(ServerError, match="is it a Darkroom"):
            list(darkroom.events(darkroom.submit("a")))
    assert len(seen) == 2


def test_a_server_without_events_says_so(opened: Opener) -> None:
    body = (JOB % b"queued").replace(b'"/events"', b"null")
    with scripted((202, {}, body)) as (url, _):
        darkroom = opened(url)
        with pytest.raises(ClientError, match="no events"):
            list(darkroom.events(darkroom.submit("a")))


def test_a_client_names_all_that_the_server_takes() -> None:
    assert {"prompt", *JobFields.__annotations__} == set(JobRequest.model_fields)


def test_a_client_names_all_that_a_key_may_have() -> None:
    assert {"tenant", *KeyFields.__annotations__} == set(KeyRequest.model_fields)


def test_a_client_names_all_that_a_search_takes() -> None:
    own = {"q", "image", "like", "limit", "cursor"}
    assert {*own, *SearchFilters.__annotations__} == set(SearchRequest.model_fields)


def test_the_twins_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        public = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in public if not name.startswith("_")}

    assert signatures(Client) == signatures(AsyncClient)
    assert all(hasattr(package, name) for name in package.__all__)
