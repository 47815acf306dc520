"""The calls for reviewers of held images, and for owners who appeal; sync and async."""

from __future__ import annotations

from typing import Literal

from client import protocol
from client.calls import AsyncCalls, Calls
from client.reviews import PATH, Appealed, Choice, Review, ReviewPage, TrailPage, paged

State = Literal["waiting", "decided"]


class ReviewCalls(Calls):
    """The calls of `Client`."""

    def reviews(
        self,
        *,
        state: State = "waiting",
        limit: int = 20,
        after: str | None = None,
        category: str | None = None,
        tenant: str | None = None,
        min_severity: int = 1,
    ) -> ReviewPage:
        """Returns one page of held images, the gravest first, or of decided ones, the newest first.

        Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`.
        """
        params = paged(state, limit, after, category, tenant, min_severity)
        return protocol.parsed(ReviewPage, self._send("GET", f"{PATH}/reviews", params=params))

    def review(self, name: str) -> Review:
        """Returns all that is known of a held image. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Review, self._send("GET", f"{PATH}/reviews/{name}"))

    def review_picture(self, name: str) -> bytes:
        """Returns the bytes of a held image. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        response = self._send("GET", f"{PATH}/reviews/{name}/picture")
        if response.is_error:
            protocol.refuse(response)
        return response.content

    def decide(self, name: str, choice: Choice, *, note: str = "") -> Review:
        """Releases or refuses a held image. Needs the scope moderate.

        Its `state` stays waiting until enough reviewers agree. Raises `ApiError`, `ConnectionFailed`.
        """
        path = f"{PATH}/reviews/{name}/{choice}"
        return protocol.parsed(Review, self._send("POST", path, json={"note": note}))

    def undo(self, name: str, *, note: str = "") -> Review:
        """Takes a decision back. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        path = f"{PATH}/reviews/{name}/undo"
        return protocol.parsed(Review, self._send("POST", path, retries=0, json={"note": note}))

    def moderation_log(self, *, first: int = 0, limit: int = 100) -> TrailPage:
        """Returns a part of the audit trail. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        params = {"first": str(first), "limit": str(limit)}
        return protocol.parsed(TrailPage, self._send("GET", f"{PATH}/log", params=params))

    def appeal(self, job_id: str, index: int, reason: str) -> Appealed:
        """Objects to the verdict on an image of your job. Raises `ApiError`, `ConnectionFailed`."""
        path = f"/v1/jobs/{job_id}/images/{index}/appeal"
        return protocol.parsed(Appealed, self._send("POST", path, json={"reason": reason}))


class AsyncReviewCalls(AsyncCalls):
    """The calls of `AsyncClient`."""

    async def reviews(
        self,
        *,
        state: State = "waiting",
        limit: int = 20,
        after: str | None = None,
        category: str | None = None,
        tenant: str | None = None,
        min_severity: int = 1,
    ) -> ReviewPage:
        """Returns one page of held images, the gravest first, or of decided ones, the newest first.

        Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`.
        """
        params = paged(state, limit, after, category, tenant, min_severity)
        return protocol.parsed(ReviewPage, await self._send("GET", f"{PATH}/reviews", params=params))

    async def review(self, name: str) -> Review:
        """Returns all that is known of a held image. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Review, await self._send("GET", f"{PATH}/reviews/{name}"))

    async def review_picture(self, name: str) -> bytes:
        """Returns the bytes of a held image. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        response = await self._send("GET", f"{PATH}/reviews/{name}/picture")
        if response.is_error:
            protocol.refuse(response)
        return response.content

    async def decide(self, name: str, choice: Choice, *, note: str = "") -> Review:
        """Releases or refuses a held image. Needs the scope moderate.

        Its `state` stays waiting until enough reviewers agree. Raises `ApiError`, `ConnectionFailed`.
        """
        path = f"{PATH}/reviews/{name}/{choice}"
        return protocol.parsed(Review, await self._send("POST", path, json={"note": note}))

    async def undo(self, name: str, *, note: str = "") -> Review:
        """Takes a decision back. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        path = f"{PATH}/reviews/{name}/undo"
        return protocol.parsed(Review, await self._send("POST", path, retries=0, json={"note": note}))

    async def moderation_log(self, *, first: int = 0, limit: int = 100) -> TrailPage:
        """Returns a part of the audit trail. Needs the scope moderate. Raises `ApiError`, `ConnectionFailed`."""
        params = {"first": str(first), "limit": str(limit)}
        return protocol.parsed(TrailPage, await self._send("GET", f"{PATH}/log", params=params))

    async def appeal(self, job_id: str, index: int, reason: str) -> Appealed:
        """Objects to the verdict on an image of your job. Raises `ApiError`, `ConnectionFailed`."""
        path = f"/v1/jobs/{job_id}/images/{index}/appeal"
        return protocol.parsed(Appealed, await self._send("POST", path, json={"reason": reason}))
