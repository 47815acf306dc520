"""The way from the API to the process that reads the meaning of prompts (`python -m moderation`)."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from contracts.meaning import MeaningAnswer, MeaningQuery
from contracts.moderation import Finding
from contracts.settings import ApiSettings


class MeaningAway(Exception):
    """The process could not answer. `cause`: `away`, `timeout` or `failed`."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class MeaningClient:
    """Asks the process of the settings. Its connections stay open."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._http: httpx.AsyncClient | None = None

    async def look(self, text: str) -> tuple[Finding, ...]:
        """What `text` means, with a score for each head. Raises `MeaningAway`."""
        query = MeaningQuery(texts=(text,)).model_dump_json()
        try:
            answer = await self._client().post(
                "/look", content=query, headers={"Content-Type": "application/json"}
            )
        except httpx.TimeoutException:
            raise MeaningAway("timeout") from None
        except httpx.HTTPError:
            raise MeaningAway("away") from None
        if not answer.is_success:
            raise MeaningAway("failed")
        try:
            (findings,) = MeaningAnswer.model_validate_json(answer.content).findings
        except (ValidationError, ValueError):
            raise MeaningAway("failed") from None
        return findings

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            token = self._settings.moderation_token
            self._http = httpx.AsyncClient(
                base_url=self._settings.moderation_url or "",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=self._settings.moderation_timeout_s,
                trust_env=False,
            )
        return self._http
