"""`GET /v1/jobs`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.wire_contract.site import JOB, Site, fresh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


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
    assert [job["id"] for job in found] == made[::-1]
    assert all(set(job) >= JOB for job in found)
    for other in (site.alice, site.bob, site.admin):
        theirs = other.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
        assert not {job["id"] for job in theirs} & set(made)
