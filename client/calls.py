"""What groups of calls stand on: one request to the server, sync and async."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import httpx


class Calls(ABC):
    """The base of the sync groups of calls."""

    @abstractmethod
    def _send(self, method: str, path: str, *, retries: int | None = None, **rest: Any) -> httpx.Response:
        """Send a request, and repeat it as the client does. Raises `ApiError`, `ConnectionFailed`."""


class AsyncCalls(ABC):
    """The base of the async groups of calls."""

    @abstractmethod
    async def _send(
        self, method: str, path: str, *, retries: int | None = None, **rest: Any
    ) -> httpx.Response:
        """Send a request, and repeat it as the client does. Raises `ApiError`, `ConnectionFailed`."""
