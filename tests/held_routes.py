"""How every route of the API is asked for a held picture. Plain data: tests in one process, tests with real processes and rounds of
faults send it.

`ROUTES` has an entry for every route, and a test compares it with the application. So a new route fails that test
until somebody has written down how it is tried.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, without the key of its caller."""

    method: str
    path: str
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, Any]:
        """The arguments of `httpx.Client.request`."""
        return {"method": self.method, "url": self.path, "json": self.json, "headers": dict(self.headers)}


@dataclass(frozen=True, slots=True)
class HeldPicture:
    """A picture that is held, or that was never drawn. `name` is the one that it would get by a release."""

    name: str
    job_id: str
    request: Mapping[str, Any]
    """The body of the job that drew it."""
    file: bytes = b""

    def secrets(self) -> list[str]:
        """What no answer and no log may have while the picture is held: its name and its bytes."""
        return [self.name.partition(".")[0], base64.b64encode(self.file).decode()[:40]]


PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/q842iQAAAABJRU5ErkJggg=="
)
"""Another picture."""
OTHER_SHA256: Final = hashlib.sha256(b"another file").hexdigest()
_REVIEW: Final = "/v1/admin/moderation/reviews/{name}"
_APPEAL: Final = {"reason": "it is a toy"}

Asks = Callable[[HeldPicture], Sequence[Ask]]


def _image(held: HeldPicture) -> list[Ask]:
    """Under the public and the private name, whole, in part and on conditions."""
    etag = f'"{held.name.partition(".")[0]}"'
    conditions: list[dict[str, str]] = [
        {},
        {"Range": "bytes=0-9"},
        {"If-None-Match": etag},
        {"If-None-Match": "*"},
        {"Range": "bytes=0-9", "If-Range": etag},
    ]
    folders = ("", "held/", "held%2F", "./held/", "inputs/../held/")
    return [
        Ask(method, f"/v1/images/{folder}{held.name}", headers=headers)
        for folder in folders
        for method in ("GET", "HEAD")
        for headers in (conditions if folder == "" else conditions[:1])
    ]


def _named(method: str, path: str, json: Any = None) -> Asks:
    """The route of `path`, which names a file or a job."""
    return lambda held: [Ask(method, path.format(name=held.name, job_id=held.job_id, index=0), json)]


def _plain(method: str, *paths: str, json: Any = None) -> Asks:
    return lambda _: [Ask(method, path, json) for path in paths]


def _job(held: HeldPicture) -> list[Ask]:
    path = f"/v1/jobs/{held.job_id}"
    return [Ask("GET", path), Ask("GET", path, headers={"Prefer": "wait=1"})]


def _events(held: HeldPicture) -> list[Ask]:
    path = f"/v1/jobs/{held.job_id}/events"
    return [Ask("GET", path), *(Ask("GET", path, headers={"Last-Event-ID": str(last)}) for last in (0, 1, 2))]


def _submit(held: HeldPicture) -> list[Ask]:
    """An equal request is no hit, with and without a key of idempotency, and neither is one that means the same."""
    body = dict(held.request)
    again = {"Idempotency-Key": held.job_id, "Prefer": "wait=20"}
    return [
        Ask("POST", "/v1/jobs", body, {"Prefer": "wait=20"}),
        Ask("POST", "/v1/jobs", body, again),
        Ask("POST", "/v1/jobs", body, again),
        Ask("POST", "/v1/jobs", {**body, "cache": "similar"}, {"Prefer": "wait=20"}),
    ]


def _openai(held: HeldPicture) -> list[Ask]:
    body = {"prompt": held.request["prompt"], "seed": held.request["seed"]}
    return [
        Ask("POST", "/v1/images/generations", {**body, "response_format": how}) for how in ("url", "b64_json")
    ]


def _search(held: HeldPicture) -> list[Ask]:
    """By words, by likeness, by what it was drawn with, and the newest: what the gallery asks."""
    queries = [
        {"q": held.request["prompt"]},
        {"like": held.name},
        {"seed": held.request["seed"]},
        {"limit": 100},
        {"source": "generated", "limit": 100},
    ]
    return [
        Ask("GET", "/v1/search?" + "&".join(f"{name}={value}" for name, value in query.items()))
        for query in queries
    ]


def _search_by_body(held: HeldPicture) -> list[Ask]:
    picture = base64.b64encode(held.file).decode() or PIXEL
    bodies: list[dict[str, Any]] = [{"like": held.name}, {"q": held.request["prompt"]}, {"image": picture}]
    return [Ask("POST", "/v1/search", body) for body in bodies]


def _static(_: HeldPicture) -> list[Ask]:
    folder = Path(__file__).parents[1] / "api" / "static"
    return [Ask("GET", f"/static/{file.name}") for file in sorted(folder.iterdir()) if file.is_file()]


BY_NAME: Final[Mapping[str, Asks]] = {
    "GET /v1/images/{name}": _image,
    "GET /v1/images/{name}/provenance": _named("GET", "/v1/images/{name}/provenance"),
    "GET /v1/images/{name}/similar": _named("GET", "/v1/images/{name}/similar"),
    "POST /v1/images/{name}/appeal": _named("POST", "/v1/images/{name}/appeal", _APPEAL),
    "DELETE /v1/search/images/{name}": _named("DELETE", "/v1/search/images/{name}"),
    "POST /v1/search/clicks": lambda held: [
        Ask("POST", "/v1/search/clicks", {"query": "a pear", "image": held.name})
    ],
    "POST /v1/search/images/known": lambda held: [
        Ask("POST", "/v1/search/images/known", {"sha256": [held.name.partition(".")[0]]})
    ],
    "GET /v1/admin/moderation/reviews/{name}": _named("GET", _REVIEW),
    "GET /v1/admin/moderation/reviews/{name}/picture": _named("GET", f"{_REVIEW}/picture"),
    "POST /v1/admin/moderation/reviews/{name}/release": _named("POST", f"{_REVIEW}/release"),
    "POST /v1/admin/moderation/reviews/{name}/refuse": _named("POST", f"{_REVIEW}/refuse"),
    "POST /v1/admin/moderation/reviews/{name}/undo": _named("POST", f"{_REVIEW}/undo"),
}
"""Routes that are asked for nothing but a name. Who is not the owner must get the same answer for a held picture as for one
that was never drawn."""

BY_JOB: Final[Mapping[str, Asks]] = {
    "GET /v1/jobs": _plain("GET", "/v1/jobs?limit=100"),
    "GET /v1/jobs/{job_id}": _job,
    "GET /v1/jobs/{job_id}/events": _events,
    "GET /v1/jobs/{job_id}/webhook": _named("GET", "/v1/jobs/{job_id}/webhook"),
    "POST /v1/jobs/{job_id}/cancel": _named("POST", "/v1/jobs/{job_id}/cancel"),
    "POST /v1/jobs/{job_id}/images/{index}/appeal": _named(
        "POST", "/v1/jobs/{job_id}/images/{index}/appeal", _APPEAL
    ),
}
"""Routes that are asked for the job that drew it."""

BY_REQUEST: Final[Mapping[str, Asks]] = {
    "POST /v1/jobs": _submit,
    "POST /v1/jobs:batch": lambda held: [
        Ask("POST", "/v1/jobs:batch", {"requests": [dict(held.request)] * 2})
    ],
    "POST /v1/images/generations": _openai,
}
"""Routes that are asked for the same picture once more."""

BY_CONTENT: Final[Mapping[str, Asks]] = {"GET /v1/search": _search, "POST /v1/search": _search_by_body}
"""Routes that are asked for what it shows."""

PLAIN: Final[Mapping[str, Asks]] = {
    "GET /": _plain("GET", "/"),
    "GET /gallery": _plain("GET", "/gallery"),
    "GET /review": _plain("GET", "/review"),
    "GET /static/{name}": _static,
    "GET /sign-in": _plain("GET", "/sign-in"),
    "GET /sign-in/callback": _plain("GET", "/sign-in/callback?code=a&state=b"),
    "GET /session": _plain("GET", "/session"),
    "POST /sign-out": _plain("POST", "/sign-out"),
    "GET /docs": _plain("GET", "/docs"),
    "GET /openapi.json": _plain("GET", "/openapi.json"),
    "GET /healthz": _plain("GET", "/healthz"),
    "GET /readyz": _plain("GET", "/readyz"),
    "GET /metrics": _plain("GET", "/metrics"),
    "GET /v1/models": _plain("GET", "/v1/models"),
    "GET /v1/models/{model}": _plain("GET", "/v1/models/m", "/v1/models/emoji-turbo"),
    "GET /v1/webhooks/secret": _plain("GET", "/v1/webhooks/secret"),
    "POST /v1/webhooks/secret/rotate": _plain("POST", "/v1/webhooks/secret/rotate"),
    "GET /v1/cache": _plain("GET", "/v1/cache"),
    "DELETE /v1/cache": _plain("DELETE", f"/v1/cache?key={OTHER_SHA256}"),
    "GET /v1/keys": _plain("GET", "/v1/keys"),
    "POST /v1/keys": _plain("POST", "/v1/keys", json={"tenant": "third"}),
    "DELETE /v1/keys/{key_id}": _plain("DELETE", "/v1/keys/dk_AAAAAAAA"),
    "DELETE /v1/admin/sessions": _plain("DELETE", "/v1/admin/sessions?person=person_0"),
    "GET /v1/admin/usage": _plain("GET", "/v1/admin/usage"),
    "GET /v1/admin/search": _plain("GET", "/v1/admin/search"),
    "POST /v1/admin/search/rebuild": _plain("POST", "/v1/admin/search/rebuild"),
    "GET /v1/admin/moderation/reviews": _plain(
        "GET", "/v1/admin/moderation/reviews", "/v1/admin/moderation/reviews?state=decided"
    ),
    "GET /v1/admin/moderation/log": _plain("GET", "/v1/admin/moderation/log"),
    "POST /v1/images/edits": _plain("POST", "/v1/images/edits", json={"prompt": "a pear", "image": PIXEL}),
    "POST /v1/images/variations": _plain("POST", "/v1/images/variations", json={"image": PIXEL}),
    "POST /v1/search/images": _plain(
        "POST", "/v1/search/images", json={"image": PIXEL, "caption": "a pixel"}
    ),
}
"""Routes that are about no picture, or about another one."""

ROUTES: Final[Mapping[str, Asks]] = {**BY_NAME, **BY_JOB, **BY_REQUEST, **BY_CONTENT, **PLAIN}
