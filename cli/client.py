"""A small client of the REST interface: what the commands need of it, and an example of how to use it."""

from __future__ import annotations

import time
from typing import Any, Final

import httpx

WAIT_S: Final = 30


class ApiError(Exception):
    """The server refused, or the job failed; the message is the server's."""


class Client:
    """Talks to the server at `url`, with an API key where it needs one."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=WAIT_S + 10)

    def ready(self) -> bool:
        """Whether the server takes jobs, and a worker lives that runs them."""
        try:
            if self._http.get("/readyz").status_code != 200:
                return False
            models = self._http.get("/v1/models").json()["data"]
        except httpx.TransportError:
            return False
        return any(model["live_workers"] for model in models)

    def generate(self, request: dict[str, Any], timeout_s: float = 300.0) -> dict[str, Any]:
        """The ended job of the request. Raises `ApiError`."""
        until = time.monotonic() + timeout_s
        job = self._call("POST", "/v1/jobs", json=request)
        while job["status"] in ("queued", "running"):
            if time.monotonic() > until:
                raise ApiError(f"Job {job['id']} is still {job['status']} after {timeout_s:g} s.")
            job = self._call("GET", job["urls"]["self"])
        if job["status"] != "succeeded":
            reason = f": {job['error']['message']}" if job["error"] else "."
            raise ApiError(f"Job {job['id']} {job['status']}{reason}")
        return job

    def picture(self, url: str) -> bytes:
        """The bytes of a finished picture."""
        response = self._http.get(url)
        response.raise_for_status()
        return response.content

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **rest: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, headers={"Prefer": f"wait={WAIT_S}"}, **rest)
        except httpx.TransportError as error:
            raise ApiError(f"{self._http.base_url} does not answer: {error}") from None
        body: dict[str, Any] = response.json()
        if response.is_error:
            raise ApiError(body["error"]["message"])
        return body
