"""A server without keys and the pages of other sites: a name made to point here, and requests across sites."""

from __future__ import annotations

import pytest

from api.browsers import is_known, known_names
from contracts.settings import ApiSettings
from tests.api.conftest import ADMIN_KEY, Opener

pytestmark = pytest.mark.anyio

BODY = {"prompt": "a red apple"}
PAGES = ("/", "/docs", "/openapi.json", "/v1/models", "/v1/jobs", "/v1/images/" + "0" * 64 + ".png")


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("10.2.3.4", True),
        ("darkroom.example:8000", True),
        ("a.inner.example", True),
        ("images.example.org", True),
        ("rebound.example", False),
        ("inner.example", False),
        ("localhost.rebound.example", False),
        ("127.0.0.1.rebound.example", False),
        ("rebound.example:notaport", False),
        ("", False),
        ("[::1", False),
        ("@localhost@rebound.example", False),
    ],
)
def test_the_names_of_a_server(host: str, known: bool) -> None:
    settings = ApiSettings(
        public_url="https://images.example.org/api", allowed_hosts="darkroom.example, .inner.example"
    )
    assert is_known(host, known_names(settings)) is known


async def test_a_name_that_was_made_to_point_here_is_answered_by_nothing_but_probes(opened: Opener) -> None:
    api = await opened()
    for path in PAGES:
        answer = await api.http.get(path, headers={"Host": "rebound.example:8000"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_not_allowed"), path
        assert "prompt" not in answer.text
    submit = await api.http.post("/v1/jobs", json=BODY, headers={"Host": "rebound.example"})
    assert submit.status_code == 421
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await api.http.get(path, headers={"Host": "pod.example"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_pages_of_other_sites_change_nothing(opened: Opener, headers: dict[str, str]) -> None:
    api = await opened()
    job = (await api.http.post("/v1/jobs", json=BODY)).json()
    # Without a body a browser asks nobody before it sends this.
    for path in (job["urls"]["cancel"], "/v1/jobs", "/v1/images/generations", "/v1/jobs:batch"):
        answer = await api.http.post(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed"), path
    assert (await api.http.get(f"/v1/jobs/{job['id']}")).json()["status"] == "queued"
    assert (await api.http.delete("/v1/cache", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://images.example.org", "Host": "images.example.org"},
        {"Origin": "https://images.example.org", "Host": "10.0.0.7:8000"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_our_own_page_and_programs_are_served(opened: Opener, headers: dict[str, str]) -> None:
    api = await opened(public_url="https://images.example.org")
    assert (await api.http.post("/v1/jobs", json=BODY, headers=headers)).status_code == 202


async def test_a_server_with_keys_is_guarded_by_them(opened: Opener) -> None:
    api = await opened(allow_anonymous=False)
    headers = {
        "Authorization": f"Bearer {ADMIN_KEY}",
        "Host": "any.example",
        "Origin": "https://elsewhere.example",
    }
    assert (await api.http.post("/v1/jobs", json=BODY, headers=headers)).status_code == 202
