"""The parts that the routes work with, made once per process, and the dependency that gives them to
a route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from api.catalogue import Catalogue
from api.hit_responses import HitResponseCache
from api.imports import Imports
from api.keyring import KeyRing
from api.long_poll import Waiters
from api.moderation import PromptJudge
from api.pictures.decoders import Decoders
from api.provenance import ProvenanceReader
from api.read_limits import ReadRate
from api.reference import WrittenDocuments
from api.schemas import ErrorView
from api.search import SearchClient
from api.sign_in import SignIn
from api.stream import Streams
from api.submit import JobService
from api.usage import Usage
from contracts.ports.clock import Clock
from contracts.ports.publisher import Publisher
from contracts.settings import ApiSettings
from moderation.carrying import Carrying
from moderation.reviewing import Reviewing
from store.stores import Stores


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that the routes work with."""

    settings: ApiSettings
    stores: Stores
    publisher: Publisher
    catalogue: Catalogue
    jobs: JobService
    waiters: Waiters
    streams: Streams
    keyring: KeyRing
    read_rate: ReadRate
    usage: Usage
    reviewing: Reviewing
    carrying: Carrying
    sign_in: SignIn | None
    search: SearchClient
    provenance: ProvenanceReader
    imports: Imports
    decoders: Decoders
    prompts: PromptJudge
    clock: Clock
    hit_bodies: HitResponseCache = field(default_factory=HitResponseCache)
    documents: WrittenDocuments = field(default_factory=WrittenDocuments)

    @property
    def leaving(self) -> bool:
        """Whether the process ends."""
        return self.waiters.closed

    def let_go(self) -> None:
        """End all waits and streams of clients. From now on every answer closes its connection."""
        self.waiters.close()
        self.streams.close()


async def _services(request: Request) -> Services:
    # A coroutine: the framework would run a plain function on another thread, for every request.
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(_services)]
"""The services, as a parameter of a route."""

_MEANING: Final = {
    400: "The body is not JSON. On OpenAI's route also: a value is wrong, or `content_policy_violation`.",
    401: "No API key, or not a valid one.",
    403: "The API key lacks the scope.",
    404: "Unknown here.",
    409: "Something else has happened meanwhile; `code` says what.",
    408: "The body did not arrive in time.",
    410: "Older than the store keeps.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    416: "No byte of the image lies in the range.",
    422: "A value is wrong; `param` names it. Or the policy does not allow what is asked for: `content_blocked`.",
    429: "A limit of the API key is reached; `details.limit` names it, `Retry-After` says when to come again.",
    500: "A fault of ours.",
    501: "The server lacks an optional package.",
    502: "The engine failed at this request.",
    503: "Something we need is away or full; `Retry-After` says when to come again.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route with these `statuses` and 500, for its documentation."""
    return {status: {"model": ErrorView, "description": _MEANING[status]} for status in (*statuses, 500)}
