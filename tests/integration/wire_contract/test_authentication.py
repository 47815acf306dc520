"""Who needs a key, and what is open to all."""

from __future__ import annotations

import httpx
import pytest

from contracts.tenancy import new_token
from tests.integration.wire_contract.site import Site, is_error

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_401_without_a_key_or_with_a_wrong_one(site: Site) -> None:
    for headers, code in (({}, "missing_api_key"), ({"X-API-Key": new_token()}, "invalid_api_key")):
        for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/models")):
            response = httpx.request(method, site.admin.url + path, headers=headers)
            is_error(response, 401, code)
            assert response.headers["www-authenticate"].startswith("Bearer")


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
