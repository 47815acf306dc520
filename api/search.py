"""The way from the API to the search process, and what a client may ask it."""

from __future__ import annotations

import base64
import json
import re
from typing import Annotated, Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api import init_image
from api.normalise import invalid
from api.pictures.decoders import Decoders
from api.pictures.header import Header
from contracts.errors import InvalidRequest, PictureNotIndexed, SearchOff, SearchUnavailable
from contracts.pictures import SHARED, Source
from contracts.search import MAX_LIMIT, MAX_QUERY_CHARS, IndexState, SearchAnswer, SearchQuery
from contracts.settings import ApiSettings
from contracts.similar import SimilarAnswer, SimilarQuery
from telemetry import metrics

SHORTER_SIDE: Final = 256
"""An image to search by is scaled to this, in pixels, before the search process gets it."""
LONGEST_SIDE: Final = 1024
AGAIN_S: Final = 2.0
SIMILAR_TIMEOUT_S: Final = 1.0
"""The longest time that looking for a similar prompt may add to a request."""
M = TypeVar("M", bound=BaseModel)
NAME = re.compile(r"[0-9a-f]{64}\.(?:png|webp|jpeg)\Z")

EXPECTED: Final = {
    "q": f"a string of at most {MAX_QUERY_CHARS} characters",
    "image": "a string",
    "like": "the name of an image",
    "model": "a string of 1 to 200 characters",
    "lora": "a string of at most 200 characters",
    "source": "generated or imported",
    "seed": "an integer from 0 to 2^63 - 1",
    "min_width": "an integer from 1 to 16384",
    "max_width": "an integer from 1 to 16384",
    "min_height": "an integer from 1 to 16384",
    "max_height": "an integer from 1 to 16384",
    "created_after": "a time in Unix seconds",
    "created_before": "a time in Unix seconds",
    "limit": f"an integer from 1 to {MAX_LIMIT}",
    "cursor": "the next_cursor of an answer",
}
"""What each field of `SearchRequest` must be, in the words of an error message."""

CLICK_EXPECTED: Final = {
    "query": f"a string of 1 to {MAX_QUERY_CHARS} characters",
    "image": "the name of an image",
}
"""As `EXPECTED`, for `Click`."""

Side = Annotated[int, Field(ge=1, le=16_384)]


class SearchRequest(BaseModel):
    """A search by words (`q`), by an image (`image`), or by an image of the platform (`like`).

    Without any, the newest images come first.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    q: Annotated[str, Field(max_length=MAX_QUERY_CHARS, description="What the image shows, in words.")] = ""
    image: str | None = Field(
        default=None, description="An image to search by: PNG, JPEG or WebP in base64, or a data URL."
    )
    like: Annotated[
        str | None, Field(description="The name of an image of the platform: find similar ones.")
    ] = None
    model: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    lora: Annotated[str | None, Field(max_length=200, description="Empty: drawn without an adapter.")] = None
    source: Source | None = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    min_width: Side | None = None
    max_width: Side | None = None
    min_height: Side | None = None
    max_height: Side | None = None
    created_after: Annotated[
        float | None, Field(ge=0, lt=1e12, allow_inf_nan=False, description="Unix seconds, inclusive.")
    ] = None
    created_before: Annotated[
        float | None, Field(ge=0, lt=1e12, allow_inf_nan=False, description="Unix seconds, exclusive.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Hits of one answer.")] = 20
    cursor: Annotated[
        str | None, Field(max_length=400, description="The `next_cursor` of the answer before.")
    ] = None

    def filters(self) -> dict[str, Any]:
        """The filters that are set, as `contracts.search.Filters` names them."""
        return self.model_dump(exclude={"q", "image", "like", "limit", "cursor"}, exclude_none=True)


class Click(BaseModel):
    """A hit that a person chose."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    query: Annotated[
        str, Field(min_length=1, max_length=MAX_QUERY_CHARS, description="The words that were searched.")
    ]
    image: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}\.(?:png|webp|jpeg)$", description="The name of the hit.")
    ]


def check(request: SearchRequest) -> None:
    """Raises `InvalidRequest` unless at most one of `q`, `image` and `like` is given, and `like` is a name."""
    given = [name for name in ("q", "image", "like") if getattr(request, name)]
    if len(given) > 1:
        raise invalid([(given[1], f"{given[1]} cannot be given together with {given[0]}.")])
    if request.like and not NAME.match(request.like):
        raise invalid(
            [("like", "like must be the name of an image, as in its URL: 64 hex digits and an ending.")]
        )


def query_of(request: SearchRequest, tenant: str, image: str) -> SearchQuery:
    """The query for the search process. A tenant sees its own images, and what all may see."""
    return SearchQuery(
        scopes=(tenant, SHARED),
        text=request.q,
        like=request.like or "",
        image=image,
        filters=request.filters(),
        limit=request.limit,
        cursor=request.cursor or "",
    )


def target(header: Header) -> tuple[int, int]:
    """Width and height, in pixels, to which an image to search by is scaled. Its shape stays."""
    width, height = header.size
    scale = min(1.0, SHORTER_SIDE / min(width, height), LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


class SearchClient:
    """Asks the search process of the settings. Its connections stay open."""

    def __init__(self, settings: ApiSettings, decoders: Decoders) -> None:
        self._settings = settings
        self._decoders = decoders
        self._http: httpx.AsyncClient | None = None

    async def search(self, tenant: str, request: SearchRequest) -> SearchAnswer:
        """The hits that `tenant` may see. Raises `RequestError`, `UnavailableError`."""
        self.require()
        check(request)
        settings = self._settings
        image = ""
        if request.image is not None:
            source = init_image.read(
                request.image,
                max_bytes=settings.max_init_image_bytes,
                max_pixels=settings.max_init_image_pixels,
                field="image",
            )
            png = await self._decoders.query(tenant, source, target(source.header))
            image = base64.b64encode(png).decode("ascii")
        query = query_of(request, tenant, image)
        return _read(SearchAnswer, await self._call("POST", "/search", query.model_dump_json()))

    async def similar(self, query: SimilarQuery) -> SimilarAnswer:
        """The prompts that mean the same. Raises `SearchUnavailable`."""
        timeout_s = min(SIMILAR_TIMEOUT_S, self._settings.search_timeout_s)
        try:
            answer = await self._call("POST", "/similar", query.model_dump_json(), timeout_s)
        except (InvalidRequest, PictureNotIndexed):
            # Another version of the search process: it does not know this call, or this query.
            raise SearchUnavailable("The search process knows no similar prompts.") from None
        return _read(SimilarAnswer, answer)

    def require(self) -> None:
        """Raises `SearchOff` on a platform without a search."""
        if not self._settings.search_url:
            raise SearchOff("This platform runs without a search. An operator sets DARKROOM_SEARCH_URL.")

    async def state(self) -> IndexState:
        """How much the index holds. Raises `SearchOff`, `SearchUnavailable`."""
        self.require()
        return _read(IndexState, await self._call("GET", "/state"))

    async def rebuild(self) -> IndexState:
        """Begin a rebuild of the index. Raises `SearchOff`, `SearchUnavailable`."""
        self.require()
        return _read(IndexState, await self._call("POST", "/rebuild"))

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            token = self._settings.search_token
            self._http = httpx.AsyncClient(
                base_url=self._settings.search_url or "",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=self._settings.search_timeout_s,
                trust_env=False,
            )
        return self._http

    async def _call(
        self, method: str, path: str, body: str | None = None, timeout_s: float | None = None
    ) -> bytes:
        try:
            answer = await self._client().request(
                method,
                path,
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout_s or self._settings.search_timeout_s,
            )
        except httpx.HTTPError as error:
            late = isinstance(error, httpx.TimeoutException)
            metrics.SEARCH_FAILED.labels("timeout" if late else "away").inc()
            reason = "did not answer in time" if late else "is away"
            raise SearchUnavailable(f"The search {reason}.", retry_after_s=AGAIN_S) from None
        if answer.is_success:
            return answer.content
        fault = _fault(answer)
        if isinstance(fault, SearchUnavailable):
            metrics.SEARCH_FAILED.labels("unavailable").inc()
        raise fault


def _read(model: type[M], answer: bytes) -> M:
    """The answer as a `model`. Raises `SearchUnavailable`: what answered is no search process of ours."""
    try:
        return model.model_validate_json(answer)
    except ValidationError:
        raise SearchUnavailable(
            "What answers at DARKROOM_SEARCH_URL is no search process that this API can read.",
            retry_after_s=AGAIN_S,
        ) from None


def _fault(answer: httpx.Response) -> InvalidRequest | PictureNotIndexed | SearchUnavailable:
    """The error that the search process has answered."""
    try:
        error = json.loads(answer.content)["error"]
        code, message, param = error["code"], error["message"], error["param"]
    except (ValueError, KeyError, TypeError):
        return SearchUnavailable(f"The search answered {answer.status_code}.", retry_after_s=AGAIN_S)
    if code == PictureNotIndexed.code:
        return PictureNotIndexed(message)
    if code == InvalidRequest.code:
        return invalid([(param or "q", message)])
    return SearchUnavailable(message, retry_after_s=AGAIN_S)
