"""The wire contract, clause by clause: REST over a real RabbitMQ and Redis, the embedded models, and webhooks to a receiver.

Two API processes stand beside the first one: `cut_off` reaches no broker, `forgetful` keeps the records of ended jobs for a
second. Three workers serve `turbo` (one step), `base` (many) and `fake` (fails when told to).
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
import pytest
import redis
from PIL import Image
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from cli.services import process
from contracts.ids import new_job_id
from contracts.settings import WebhookSettings
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Stack, deployed
from tests.integration.test_events import Reader
from tests.webhooks.conftest import receiving
from webhooks.schedule import JITTER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TURBO, BASE, FAKE = "emoji-turbo", "emoji-base", "fake"
LONG = {"model": BASE, "num_inference_steps": 100, "num_images": 4}
"""Takes seconds, step by step, wherever it runs."""
ERROR = {"code", "message", "type", "param", "request_id", "details"}
# fmt: off
JOB = {
    "id", "status", "created_at", "started_at", "finished_at", "queue_position", "eta_seconds", "cache", "request", "images",
    "timings", "warnings", "error", "urls", "denoising_steps",
}
# fmt: on
SEEDS = itertools.count(1)


def fresh(**body: Any) -> dict[str, Any]:
    """A request that nobody has made before."""
    return {"prompt": "a red apple on a blue background", "seed": next(SEEDS), **body}


@dataclass
class Site:
    """The deployment as its operator, and as two tenants, see it."""

    admin: Stack
    alice: Stack
    bob: Stack
    cut_off: httpx.Client
    forgetful: httpx.Client
    worker_metrics: str

    def key(self, **fields: Any) -> dict[str, str]:
        """The header of a new API key."""
        response = self.admin.http.post("/v1/keys", json=fields)
        assert response.status_code == 201, response.text
        return {"Authorization": f"Bearer {response.json()['key']}"}

    def of_worker(self, name: str, model: str) -> float:
        """The value of a metric of the worker of `base`, or of the one that serves `model`."""
        text = httpx.get(self.worker_metrics).text
        found = re.search(rf'^{name}{{model="{model}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextmanager
    def held(self, worker: str) -> Iterator[None]:
        """That worker takes nothing meanwhile."""
        self.admin.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            self.admin.kill(worker, signal.SIGCONT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: Any, rabbit_server: Any) -> Iterator[Site]:
    environ = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_ALLOW_ANONYMOUS": "false",
        "DARKROOM_DEFAULT_MODEL": TURBO,
        "DARKROOM_HEARTBEAT_S": "0.5",
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32",
        "DARKROOM_WEBHOOK_RETRY_S": "0.2,0.2,0.2",
    }
    folder = tmp_path_factory.mktemp("contract")
    with ExitStack() as opened:
        admin = opened.enter_context(deployed(folder, redis_server, rabbit_server, 0, **environ))
        ports = [str(process.free_port()) for _ in range(3)]
        for model, extra in (
            (TURBO, {}),
            (BASE, {"DARKROOM_METRICS_PORT": ports[0]}),
            (FAKE, {"DARKROOM_ENGINE": "fake"}),
        ):
            folder_or_name = model if model == FAKE else str(ROOT / "models" / model)
            admin.start("worker", model, DARKROOM_MODEL=folder_or_name, **extra)
        admin.start("webhooks", "webhooks")
        nowhere = f"amqp://guest:guest@127.0.0.1:{process.free_port()}//"
        admin.start("api", "cut_off", DARKROOM_PORT=ports[1], DARKROOM_BROKER_URL=nowhere)
        admin.start("api", "forgetful", DARKROOM_PORT=ports[2], DARKROOM_JOB_RETENTION_S="1")
        for model in (TURBO, BASE, FAKE):
            admin.wait_ready(1, model)
        made = Site(admin, admin, admin, admin.http, admin.http, f"http://127.0.0.1:{ports[0]}/metrics")
        alice, bob = made.key(tenant="alice"), made.key(tenant="bob")

        def client(url: str, headers: dict[str, str]) -> httpx.Client:
            return opened.enter_context(httpx.Client(base_url=url, headers=headers, timeout=90.0))

        for port in ports[1:]:
            until = time.monotonic() + 60
            while not process.answers(int(port)):
                assert time.monotonic() < until, admin.logs()
                time.sleep(0.1)
        yield replace(
            made,
            alice=replace(admin, http=client(admin.url, alice)),
            bob=replace(admin, http=client(admin.url, bob)),
            cut_off=client(f"http://127.0.0.1:{ports[1]}", alice),
            forgetful=client(f"http://127.0.0.1:{ports[2]}", alice),
        )


def is_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The details of an error, which has the one shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == ERROR
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert error["type"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def seconds(response: httpx.Response) -> int:
    """Its `Retry-After`."""
    value = int(response.headers["retry-after"])
    assert value >= 1
    return value


def opened_image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# POST /v1/jobs


def test_submit_is_202_with_location_and_retry_after(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh())
    assert response.status_code == 202
    job = response.json()
    assert job["status"] in ("queued", "running")
    assert response.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert seconds(response) >= 1
    assert site.alice.ended(job)["status"] == "succeeded"


def test_submit_is_200_when_the_cache_has_the_answer(site: Site) -> None:
    body = fresh()
    first = site.alice.ended(site.alice.submit(**body))
    response = site.alice.http.post("/v1/jobs", json=body)
    assert response.status_code == 200
    job = response.json()
    assert (job["status"], job["cache"]) == ("succeeded", "hit")
    assert job["id"] != first["id"]
    assert job["images"] == first["images"]
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert "retry-after" not in response.headers
    other = site.bob.http.post("/v1/jobs", json=body)
    assert (other.status_code, other.json()["cache"]) == (202, "miss"), "another tenant's cache is its own"


def test_prefer_wait_holds_a_submit_for_the_result(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=30"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=30"


def test_prefer_wait_is_cut_to_sixty_seconds(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=3600"})
    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait=60")


def test_prefer_wait_that_ends_too_early_leaves_a_job_to_poll(site: Site) -> None:
    with site.held(TURBO):
        begun = time.monotonic()
        response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=1"})
        assert time.monotonic() - begun >= 1.0
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert seconds(response) >= 1
    assert response.headers["location"]


def test_an_idempotency_key_with_the_same_body_replays_the_first_answer(site: Site) -> None:
    body, headers = fresh(seed="random"), {"Idempotency-Key": "order-1"}
    first = site.alice.http.post("/v1/jobs", json=body, headers=headers)
    again = site.alice.http.post("/v1/jobs", json=dict(reversed(body.items())), headers=headers)
    site.alice.ended(first.json())
    ended = site.alice.http.post("/v1/jobs", json=body, headers=headers)
    for replay in (again, ended):
        assert (replay.status_code, replay.json()["id"]) == (202, first.json()["id"])
        assert replay.headers["location"] == first.headers["location"]
        assert replay.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = site.bob.http.post("/v1/jobs", json=body, headers=headers)
    assert other.json()["id"] != first.json()["id"], "keys are the tenant's own"


def test_an_idempotency_key_replays_a_200_as_200(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    first, again = (
        site.alice.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "order-2"}) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


def test_an_idempotency_key_with_another_body_is_422(site: Site) -> None:
    headers = {"Idempotency-Key": "order-3"}
    assert site.alice.http.post("/v1/jobs", json=fresh(), headers=headers).status_code == 202
    response = site.alice.http.post("/v1/jobs", json=fresh(), headers=headers)
    is_error(response, 422, "idempotency_key_reuse", "Idempotency-Key")


def test_an_idempotency_key_holds_for_a_day(site: Site) -> None:
    site.alice.http.post("/v1/jobs", json=fresh(), headers={"Idempotency-Key": "order-4"})
    with redis.Redis.from_url(site.admin.redis.url) as client:
        lives = [client.ttl(name) for name in client.scan_iter("darkroom:idempotency:*")]
    assert lives
    assert all(86_000 < life <= 86_400 for life in lives)


# GET /v1/jobs/{id}


def test_a_job_is_read(site: Site) -> None:
    job = site.alice.submit(**fresh())
    response = site.alice.http.get(job["urls"]["self"])
    assert (response.status_code, response.json()["id"]) == (200, job["id"])


def test_prefer_wait_polls_for_long(site: Site) -> None:
    with site.held(TURBO):
        job = site.alice.submit(**fresh())
        pending = site.alice.http.get(job["urls"]["self"], headers={"Prefer": "wait=1"})
        assert (pending.status_code, pending.json()["status"]) == (200, "queued")
        assert seconds(pending) >= 1
    response = site.alice.http.get(job["urls"]["self"], headers={"Prefer": "wait=30"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=30"
    assert "retry-after" not in response.headers


OF_A_JOB = [("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/webhook")]


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_an_unknown_job_and_another_tenants_are_404_and_look_alike(
    site: Site, method: str, path: str
) -> None:
    theirs = site.bob.ended(site.bob.submit(**fresh()))["id"]
    answers = [
        site.alice.http.request(method, f"/v1/jobs/{job_id}{path}")
        for job_id in (theirs, new_job_id(time.time(), "0"), "nonsense")
    ]
    messages = {is_error(answer, 404, "job_not_found")["message"] for answer in answers}
    assert len(messages) == 1


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_a_job_that_expired_from_the_store_is_410(site: Site, method: str, path: str) -> None:
    old = new_job_id(time.time() - 30 * 86_400, "7")
    is_error(site.alice.http.request(method, f"/v1/jobs/{old}{path}"), 410, "job_gone")


def test_a_record_that_was_kept_long_enough_is_410_too(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    job = site.forgetful.post("/v1/jobs", json=body).json()
    assert (job["status"], job["cache"]) == ("succeeded", "hit")
    until = time.monotonic() + 20
    while (response := site.forgetful.get(job["urls"]["self"])).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    is_error(response, 410, "job_gone")


# GET /v1/jobs


def test_the_list_holds_own_jobs_newest_first_by_cursor(site: Site) -> None:
    headers = site.key(tenant="carol")
    with httpx.Client(base_url=site.admin.url, headers=headers, timeout=90.0) as http:
        assert http.get("/v1/jobs").json() == {"data": [], "next_cursor": None}
        made = [http.post("/v1/jobs", json=fresh()).json()["id"] for _ in range(5)]
        found: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        for size in (2, 2, 1):
            response = http.get("/v1/jobs", params={"limit": 2, **after})
            assert response.status_code == 200
            page = response.json()
            assert len(page["data"]) == size
            found += page["data"]
            after = {"after": page["next_cursor"]}
        assert after == {"after": None}
        is_error(http.get("/v1/jobs", params={"after": "x"}), 422, "invalid_request", "after")
        is_error(http.get("/v1/jobs", params={"limit": 101}), 422, "invalid_request", "limit")
    assert [job["id"] for job in found] == made[::-1]
    assert all(set(job) >= JOB for job in found)
    for other in (site.alice, site.bob, site.admin):
        theirs = other.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
        assert not {job["id"] for job in theirs} & set(made)


# POST /v1/jobs/{id}/cancel


def test_cancel_is_idempotent_and_takes_effect_before_the_batch(site: Site) -> None:
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    before = site.of_worker("darkroom_steps_total", BASE)
    with site.held(BASE):
        jobs = [site.alice.submit(**fresh(model=BASE, num_inference_steps=3)) for _ in range(3)]
        first, doomed, last = jobs
        canceled = site.alice.http.post(doomed["urls"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        again = site.alice.http.post(doomed["urls"]["cancel"])
        assert (again.status_code, again.json()) == (200, canceled.json())
    for job in (first, last):
        assert site.alice.ended(job)["status"] == "succeeded"
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    assert site.of_worker("darkroom_steps_total", BASE) - before == 2 * 3
    assert site.alice.http.get(doomed["urls"]["self"]).json() == canceled.json()


def test_cancel_takes_effect_at_a_step_boundary(site: Site) -> None:
    before = site.of_worker("darkroom_steps_total", BASE)
    job = site.alice.submit(**fresh(**LONG))
    with following(site.alice, job) as stream:
        stream.until("progress")
        canceled = site.alice.http.post(job["urls"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        stream.to_end()
    assert stream.seen[-1][0] == "status"
    assert stream.seen[-1][1]["status"] == "canceled"
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    done = site.of_worker("darkroom_steps_total", BASE) - before
    assert 0 < done < 400, "it stopped between two steps, not after the last"
    final = site.alice.http.get(job["urls"]["self"]).json()
    assert (final["status"], final["images"]) == ("canceled", [])


def test_cancel_leaves_an_ended_job_as_it_is(site: Site) -> None:
    job = site.alice.ended(site.alice.submit(**fresh()))
    response = site.alice.http.post(job["urls"]["cancel"])
    assert (response.status_code, response.json()) == (200, job)


def wait_until(true: Callable[[], bool], site: Site, timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, site.admin.logs()
        time.sleep(0.05)


# GET /v1/jobs/{id}/events


class Stream(Reader):
    def next_named(self) -> str | None:
        event = self.next()
        return None if event is None else event[0]

    def until(self, name: str) -> None:
        """To the next event of that name."""
        while (found := self.next_named()) != name:
            assert found is not None, self.seen

    def to_end(self) -> None:
        """Until the server closes it, as it must after the terminal event."""
        while self.next() is not None:
            continue


@contextmanager
def following(stack: Stack, job: dict[str, Any], last_id: str | None = None) -> Iterator[Stream]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with stack.http.stream("GET", job["urls"]["events"], headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response.iter_lines())


def test_events_are_a_snapshot_then_status_progress_output_and_the_end(site: Site) -> None:
    with site.held(BASE):
        job = site.alice.submit(**fresh(model=BASE, num_inference_steps=30))
        with following(site.alice, job) as stream:
            assert stream.next_named() == "snapshot"
            assert set(stream.seen[0][1]) >= JOB
            assert stream.seen[0][1]["status"] == "queued"
            site.admin.kill(BASE, signal.SIGCONT)
            stream.to_end()
    names = [name for name, _ in stream.seen]
    assert set(names) == {"snapshot", "status", "progress", "output"}
    assert names[-2:] == ["output", "status"]
    assert names.count("output") == 1
    statuses = [data["status"] for name, data in stream.seen if name == "status"]
    assert [status for status, _ in itertools.groupby(statuses) if status != "queued"] == [
        "running",
        "succeeded",
    ]
    steps = [data["step"] for name, data in stream.seen if name == "progress"]
    assert steps == sorted(steps)
    assert {data["steps"] for name, data in stream.seen if name == "progress"} == {30}
    output = next(data for name, data in stream.seen if name == "output")
    assert output["images"] == site.alice.http.get(job["urls"]["self"]).json()["images"]


def test_last_event_id_resumes_without_a_snapshot_and_204_says_that_all_was_told(site: Site) -> None:
    job = site.alice.submit(**fresh(model=BASE, num_inference_steps=30))
    with following(site.alice, job) as broken:
        broken.until("progress")
    with following(site.alice, job, broken.last_id) as resumed:
        resumed.to_end()
    names = [name for name, _ in resumed.seen]
    assert "snapshot" not in names
    assert names[-2:] == ["output", "status"]
    assert resumed.seen[-1][1]["status"] == "succeeded"
    done = site.alice.http.get(job["urls"]["events"], headers={"Last-Event-ID": str(resumed.last_id)})
    assert done.status_code == 204


def test_events_of_an_ended_job_tell_all_and_close(site: Site) -> None:
    job = site.alice.ended(site.alice.submit(**fresh()))
    with following(site.alice, job) as stream:
        stream.to_end()
    assert [name for name, _ in stream.seen] == ["snapshot", "output", "status"]
    assert stream.seen[0][1] == job


# GET /v1/images/{name}


@pytest.fixture(scope="module")
def picture(site: Site) -> dict[str, Any]:
    image: dict[str, Any] = site.alice.ended(site.alice.submit(**fresh()))["images"][0]
    return image


def test_an_image_is_its_bytes_immutable_and_named_by_them(site: Site, picture: dict[str, Any]) -> None:
    response = httpx.get(
        site.admin.url + picture["url"]
    )  # no key: docs/adr/0010-pictures-are-capabilities.md
    assert response.status_code == 200
    assert response.headers["content-type"] == picture["content_type"] == "image/png"
    assert opened_image(response.content).size == (picture["width"], picture["height"])
    assert "immutable" in response.headers["cache-control"]
    digest = hashlib.sha256(response.content).hexdigest()
    assert response.headers["etag"] == f'"{digest}"'
    assert picture["url"] == f"/v1/images/{digest}.png"


@pytest.mark.parametrize(("format_", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("by", ["field", "accept"])
def test_an_image_has_the_type_that_was_asked_for(site: Site, format_: str, kind: str, by: str) -> None:
    extra = {"output_format": format_} if by == "field" else {}
    headers = {"Prefer": "wait=30", **({"Accept": f"image/{format_}"} if by == "accept" else {})}
    (image,) = site.alice.http.post("/v1/jobs", json=fresh(**extra), headers=headers).json()["images"]
    response = httpx.get(site.admin.url + image["url"])
    assert response.headers["content-type"] == image["content_type"] == f"image/{format_}"
    assert opened_image(response.content).format == kind


def test_an_image_that_the_client_has_is_304(site: Site, picture: dict[str, Any]) -> None:
    url = site.admin.url + picture["url"]
    etag = httpx.get(url).headers["etag"]
    response = httpx.get(url, headers={"If-None-Match": etag})
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert httpx.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_ranges_of_an_image_are_206_and_416(site: Site, picture: dict[str, Any]) -> None:
    url = site.admin.url + picture["url"]
    whole = httpx.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    size = len(whole.content)
    for asked, first, end in (("0-9", 0, 10), ("10-", 10, size), ("-7", size - 7, size)):
        part = httpx.get(url, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, whole.content[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    beyond = httpx.get(url, headers={"Range": f"bytes={size}-"})
    is_error(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{size}"


def test_an_unknown_image_is_404(site: Site) -> None:
    is_error(site.alice.http.get(f"/v1/images/{'0' * 64}.png"), 404, "image_not_found")


# POST /v1/images/generations


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    token = site.alice.http.headers["authorization"].removeprefix("Bearer ")
    with openai.OpenAI(base_url=f"{site.admin.url}/v1", api_key=token, timeout=60.0) as made:
        yield made


def test_the_openai_client_takes_every_field_unchanged(site: Site, client: openai.OpenAI) -> None:
    seed = next(SEEDS)
    asked: dict[str, Any] = {
        "prompt": "a snowman",
        "model": BASE,
        "n": 2,
        "size": "64x64",
        "output_format": "webp",
        "output_compression": 60,
        "user": "somebody",
        "extra_body": {
            "negative_prompt": "blurred",
            "num_inference_steps": 2,
            "guidance_scale": 2.0,
            "seed": seed,
        },
    }
    inline = client.images.generate(response_format="b64_json", **asked)
    linked = client.images.generate(response_format="url", **asked)
    assert inline.data
    assert linked.data
    assert len(inline.data) == len(linked.data) == 2
    assert inline.created > 1_700_000_000
    for one, other in zip(inline.data, linked.data, strict=True):
        data = base64.b64decode(one.b64_json or "", validate=True)
        assert opened_image(data).format == "WEBP"
        assert httpx.get(other.url or "").content == data
    request = site.alice.http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["request"]
    told = {
        "prompt": "a snowman",
        "negative_prompt": "blurred",
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "seed": seed,
        "num_images": 2,
        "output_quality": 60,
    }
    assert {name: request[name] for name in told} == told


def test_what_the_openai_route_refuses_is_400_as_openais_own_client_has_it(client: openai.OpenAI) -> None:
    """Where `/v1/jobs` says 422: the client raises `BadRequestError` for 400 alone."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a red apple", size="1x1")
    assert caught.value.param == "size"


# The others


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/healthz", "application/json"),
        ("/readyz", "application/json"),
        ("/metrics", "text/plain"),
        ("/openapi.json", "application/json"),
        ("/", "text/html"),
    ],
)
def test_what_needs_no_key(site: Site, path: str, content_type: str) -> None:
    response = httpx.get(site.admin.url + path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)


def test_models_tells_what_is_served_with_its_limits(site: Site) -> None:
    body = site.alice.http.get("/v1/models").json()
    assert body["object"] == "list"
    models = {model["id"]: model for model in body["data"]}
    assert set(models) == {TURBO, BASE, FAKE}
    assert (models[TURBO]["object"], models[TURBO]["live_workers"]) == ("model", 1)
    assert models[BASE]["max_num_inference_steps"] == 100
    one = site.alice.http.get(f"/v1/models/{BASE}").json()
    assert (one["object"], one["max_num_inference_steps"]) == ("model", 100)
    unknown = site.alice.http.get("/v1/models/none")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_metrics_count_jobs(site: Site) -> None:
    site.alice.submit(**fresh())
    assert re.search(
        r'^darkroom_jobs_submitted_total\{cache="miss",model="emoji-turbo"\} [1-9]',
        httpx.get(site.admin.url + "/metrics").text,
        re.MULTILINE,
    )


def test_openapi_describes_every_call_of_the_contract(site: Site) -> None:
    paths = httpx.get(site.admin.url + "/openapi.json").json()["paths"]
    calls = {
        "/v1/jobs": {"get", "post"},
        "/v1/jobs/{job_id}": {"get"},
        "/v1/jobs/{job_id}/cancel": {"post"},
        "/v1/jobs/{job_id}/events": {"get"},
        "/v1/images/{name}": {"get"},
        "/v1/images/generations": {"post"},
        "/v1/models": {"get"},
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }
    assert {path: set(paths[path]) & methods for path, methods in calls.items()} == calls


# The job


def test_a_job_has_every_field_in_every_state(site: Site) -> None:
    """`failed` and `expired` by the stand-in engine: the models of ours do not fail."""
    body = fresh()
    with site.held(TURBO):
        queued, joined = site.alice.submit(**body), site.alice.submit(**body)
    canceled = site.alice.submit(**fresh(**LONG))
    wait_until(lambda: site.alice.http.get(canceled["urls"]["self"]).json()["status"] == "running", site)
    running = site.alice.http.get(canceled["urls"]["self"]).json()
    canceled = site.alice.http.post(canceled["urls"]["cancel"]).json()
    succeeded, shared = site.alice.ended(queued), site.alice.ended(joined)
    hit = site.alice.submit(**body)
    failed = site.alice.ended(site.alice.submit(**fresh(model=FAKE, prompt="fault:raise")))
    with site.held(FAKE):
        expired = site.alice.ended(site.alice.submit(**fresh(model=FAKE, timeout_seconds=1.0)))

    jobs = [queued, running, succeeded, shared, hit, failed, canceled, expired]
    assert [job["status"] for job in jobs] == [
        "queued",
        "running",
        *["succeeded"] * 3,
        "failed",
        "canceled",
        "expired",
    ]
    for job in jobs:
        assert set(job) >= JOB
        self_url = f"/v1/jobs/{job['id']}"
        urls = {"self": self_url, "events": f"{self_url}/events", "cancel": f"{self_url}/cancel"}
        assert urls.items() <= job["urls"].items()
        assert (job["finished_at"] is None) == (job["status"] in ("queued", "running"))
        assert (job["error"] is None) == (job["status"] != "failed")
        assert bool(job["images"]) == (job["status"] == "succeeded")
        assert (job["queue_position"] is None) == (job["status"] != "queued")
        assert job["created_at"] <= (job["started_at"] or job["created_at"]) <= time.time()
    assert running["started_at"] is not None
    assert [job["cache"] for job in (succeeded, shared, hit)] == ["miss", "joined", "hit"]
    assert succeeded["images"] == shared["images"] == hit["images"]
    assert set(succeeded["images"][0]) == {"url", "width", "height", "seed", "content_type"}
    assert set(succeeded["timings"]) == {"queued_ms", "batch_ms", "encode_ms", "batch_size"}
    assert succeeded["request"].items() >= {**body, "model": TURBO, "num_images": 1}.items()
    assert succeeded["warnings"] == []
    assert failed["error"]["code"] == "engine_fault"


def test_queue_position_counts_jobs_ahead(site: Site) -> None:
    with site.held(TURBO):
        jobs = [site.alice.submit(**fresh()) for _ in range(3)]
        assert [job["queue_position"] for job in jobs] == [0, 1, 2]
        assert jobs[0]["eta_seconds"] <= jobs[1]["eta_seconds"] <= jobs[2]["eta_seconds"]
        site.alice.http.post(jobs[1]["urls"]["cancel"])
        assert site.alice.http.get(jobs[2]["urls"]["self"]).json()["queue_position"] == 1
    for job in (jobs[0], jobs[2]):
        assert site.alice.ended(job)["queue_position"] is None


def test_queue_position_of_a_joined_job_is_that_of_the_one_it_joined(site: Site) -> None:
    body = fresh()
    with site.held(TURBO):
        ahead, leader, joined = (site.alice.submit(**each) for each in (fresh(), body, body))
        assert joined["cache"] == "joined"
        assert (leader["queue_position"], joined["queue_position"]) == (1, 1)
        assert joined["eta_seconds"] is not None
    site.alice.ended(ahead)
    assert site.alice.ended(joined)["status"] == "succeeded"


def test_truncation_at_the_models_token_limit_is_a_warning(site: Site) -> None:
    """77 is CLIP's; every model tells its own."""
    models = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    limit = models[TURBO]["max_prompt_tokens"]
    words = limit - 2  # beside the marks of begin and end
    cut, whole = (
        site.alice.ended(site.alice.submit(**fresh(prompt=" ".join(["apple"] * count))))
        for count in (words + 1, words)
    )
    assert cut["status"] == "succeeded"
    (warning,) = cut["warnings"]
    assert f"{limit + 1} tokens" in warning
    assert f"first {limit}" in warning
    assert whole["warnings"] == []
    hit = site.alice.submit(**cut_again(cut))
    assert (hit["cache"], hit["warnings"]) == ("hit", [warning])


def cut_again(job: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": job["request"]["prompt"], "seed": job["request"]["seed"]}


# Errors


def test_401_without_a_key_or_with_a_wrong_one(site: Site) -> None:
    for headers, code in (({}, "missing_api_key"), ({"X-API-Key": new_token()}, "invalid_api_key")):
        for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/models")):
            response = httpx.request(method, site.admin.url + path, headers=headers)
            is_error(response, 401, code)
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_403_without_the_scope(site: Site) -> None:
    is_error(site.alice.http.get("/v1/keys"), 403, "insufficient_scope")


def test_404_and_405_at_addresses_that_are_none(site: Site) -> None:
    is_error(site.alice.http.get("/v1/nothing"), 404, "not_found")
    is_error(site.alice.http.post("/v1/jobs", json=fresh(model="none")), 404, "model_not_found", "model")
    response = site.alice.http.delete("/v1/jobs")
    is_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"


def test_409_for_a_job_that_is_canceled_while_its_pictures_are_waited_for(site: Site) -> None:
    seed = next(SEEDS)
    answers: list[httpx.Response] = []
    with site.held(TURBO):
        body = {"prompt": "an octopus", "seed": seed}
        asking = threading.Thread(
            target=lambda: answers.append(site.alice.http.post("/v1/images/generations", json=body))
        )
        asking.start()
        found: list[dict[str, Any]] = []
        until = time.monotonic() + 30
        while not found:
            assert time.monotonic() < until
            listed = site.alice.http.get("/v1/jobs").json()["data"]
            found = [
                job
                for job in listed
                if job["request"]["seed"] == seed and job["request"]["prompt"] == body["prompt"]
            ]
        site.alice.http.post(found[0]["urls"]["cancel"])
        asking.join(30)
    error = is_error(answers[0], 409, "job_canceled")
    assert error["details"] == {"job_id": found[0]["id"]}


@pytest.mark.parametrize(
    ("status", "code", "content", "content_type"),
    [
        (400, "malformed_body", b"{", "application/json"),
        (413, "payload_too_large", b'{"prompt": "' + b"a" * 70_000 + b'"}', "application/json"),
        (415, "unsupported_media_type", b"prompt=a", "application/x-www-form-urlencoded"),
        (415, "unsupported_media_type", b"{}", None),
    ],
)
def test_400_413_415_for_bodies(
    site: Site, status: int, code: str, content: bytes, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = site.alice.http.post("/v1/jobs", content=content, headers=headers)
    is_error(response, status, code)
    assert "connection" not in response.headers, "its body was read to the end: the connection is good"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"width": 63}, "width"),
        ({"num_inference_steps": 9}, "num_inference_steps"),
        ({"num_images": 5}, "num_images"),
        ({"seed": -1}, "seed"),
        ({"guidance_scale": 99}, "guidance_scale"),
        ({"steps": 1}, "steps"),
        ({"webhook": {"url": "http://10.0.0.1/"}}, "webhook.url"),
    ],
)
def test_422_names_the_field(site: Site, changes: dict[str, Any], param: str) -> None:
    error = is_error(site.alice.http.post("/v1/jobs", json=fresh(**changes)), 422, "invalid_request", param)
    assert param in error["message"]
    assert error["details"]["faults"][0] == {"param": param, "message": error["message"]}


def test_429_with_retry_after(site: Site) -> None:
    headers = site.key(tenant="dave", requests_per_minute=1, burst=1)
    first, second = (httpx.post(f"{site.admin.url}/v1/jobs", json=fresh(), headers=headers) for _ in range(2))
    assert first.status_code == 202
    error = is_error(second, 429, "quota_exceeded")
    assert error["details"]["limit"] == "requests_per_minute"
    assert seconds(second) <= 60


def test_503_with_retry_after_where_the_broker_is_away_but_hits_are_served(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    with site.held(
        TURBO
    ):  # the other API would publish it from the outbox, and a worker be quicker than the refusal
        refused = site.cut_off.post("/v1/jobs", json=fresh())
    is_error(refused, 503, "broker_unavailable")
    assert seconds(refused) >= 1
    unready = site.cut_off.get("/readyz")
    error = is_error(unready, 503, "unavailable")
    assert error["details"]["checks"]["store"] == "ok"
    assert error["details"]["checks"]["broker"] != "ok"
    assert seconds(unready) >= 1
    assert site.cut_off.get("/healthz").status_code == 200
    hit = site.cut_off.post("/v1/jobs", json=body)
    assert (hit.status_code, hit.json()["cache"]) == (200, "hit")


# Webhooks


def delivered(site: Site, job: dict[str, Any]) -> dict[str, Any]:
    """The log of the job's webhook once nothing more will happen to it."""
    found: dict[str, Any] = {}

    def settled() -> bool:
        found.update(site.alice.http.get(job["urls"]["webhook"]).json())
        return found["status"] in ("delivered", "failed", "disabled")

    wait_until(settled, site)
    return found


def test_webhooks_are_signed_by_standard_webhooks_and_tried_again_under_one_id(site: Site) -> None:
    secret = site.alice.http.get("/v1/webhooks/secret").json()["secret"]
    assert secret.startswith("whsec_")
    with receiving() as elsewhere, receiving(500, (302, {"Location": elsewhere.url}), 204) as receiver:
        job = site.alice.ended(site.alice.submit(**fresh(webhook={"url": receiver.url})))
        log = delivered(site, job)
    assert log["status"] == "delivered"
    assert [attempt["status_code"] for attempt in log["attempts"]] == [500, 302, 204]
    assert elsewhere.requests == [], "a redirect is a failure, and not followed"
    assert receiver.ids == [log["id"]] * 3
    for headers, body in receiver.requests:
        event = Verifier(secret).verify(body, headers)
        assert event["type"] == "job.succeeded"
        assert event["data"]["id"] == job["id"]
        assert set(event["data"]) >= JOB
        stamp = headers["webhook-timestamp"]
        assert abs(int(stamp) - time.time()) < 60
        assert all(each.startswith("v1,") for each in headers["webhook-signature"].split(" "))
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body.replace(b"job.succeeded", b"job.failed"), headers)
        other = site.bob.http.get("/v1/webhooks/secret").json()["secret"]
        with pytest.raises(WebhookVerificationError):
            Verifier(other).verify(body, headers)
    assert json.loads(receiver.requests[0][1])["data"]["images"] == job["images"]


def test_webhooks_that_are_answered_410_are_disabled(site: Site) -> None:
    with receiving(410) as receiver:
        for _ in range(2):
            job = site.alice.ended(site.alice.submit(**fresh(webhook={"url": receiver.url})))
            assert delivered(site, job)["status"] == "disabled"
    assert len(receiver.requests) == 1


def test_webhooks_tell_of_the_ends_that_were_asked_for(site: Site) -> None:
    with receiving() as receiver, site.held(TURBO):
        hook = {"url": receiver.url, "events": ["job.canceled"]}
        job = site.alice.submit(**fresh(webhook=hook))
        site.alice.http.post(job["urls"]["cancel"])
        assert delivered(site, job)["event"] == "job.canceled"
        assert json.loads(receiver.requests[0][1])["data"]["status"] == "canceled"


def test_webhooks_are_tried_for_three_days_with_jitter() -> None:
    """What an address resolves to, and that it is connected to as checked, is held by tests/webhooks/test_caller.py."""
    assert 0.95 * 3 <= sum(WebhookSettings().retry_delays_s) / 86_400 <= 3
    assert JITTER > 0


def start_picture() -> str:
    """A red square."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_every_corner_that_a_model_announces_is_drawn(site: Site) -> None:
    """Steps and strength at their limits, and a count for which diffusers makes one step too many."""
    models = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    started = {name: model["created"] for name, model in models.items()}
    for name in (TURBO, BASE):
        model = models[name]
        top = model["max_num_inference_steps"]
        counts = {1, 2, 61, top - 1, top} - set(model["refused_num_inference_steps"])
        for steps in sorted(count for count in counts if 1 <= count <= top):
            for strength in (None, 1 / steps, 0.5, 1.0):
                if strength is not None and (not model["init_images"] or int(steps * strength) < 1):
                    continue
                start = {} if strength is None else {"init_image": start_picture(), "strength": strength}
                body = fresh(model=name, num_inference_steps=steps, width=32, height=32, **start)
                job = site.alice.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()
                assert job["status"] == "succeeded", (name, steps, strength, job)
                expected = steps if strength is None else min(int(steps * strength), steps)
                assert job["denoising_steps"] == expected
    after = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    assert {name: model["created"] for name, model in after.items()} == started, "no worker was started anew"
