"""Calls the endpoint of the policy. The operator chose its address, so inner addresses are called too."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import httpx

from duties.backoff import retry_after_s
from moderation.policy import InvalidPolicy, Policy
from moderation.policy_second_look import SecondLookRules
from second_look.protocol import PATH, Answer, Garbled, Question, answer_of, body_of

MAX_ANSWER_BYTES: Final = 262_144
MAX_KEY_BYTES: Final = 10_000
RETRIED: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 that another attempt may not meet."""


class LookFailed(Exception):
    """The endpoint gave no usable answer. `cause` is a word for the log. `retry`: another attempt may help."""

    def __init__(
        self,
        outcome: Literal["away", "garbled"],
        cause: str,
        *,
        retry: bool,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(cause)
        self.outcome = outcome
        self.cause = cause
        self.retry = retry
        self.retry_after_s = retry_after_s


def key_of(rules: SecondLookRules, environ: Mapping[str, str]) -> str:
    """The endpoint's key; empty: it needs none. Raises `InvalidPolicy` if it is not where the policy says."""
    if rules.api_key_env is not None:
        key = environ.get(rules.api_key_env, "").strip()
        place = f"second_look.api_key_env: the environment has no {rules.api_key_env}"
    elif rules.api_key_file is not None:
        place = f"second_look.api_key_file: {rules.api_key_file}"
        try:
            with Path(rules.api_key_file).open("rb") as file:
                key = file.read(MAX_KEY_BYTES).decode().strip()
        except OSError as error:
            raise InvalidPolicy(f"{place} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidPolicy(f"{place} is not UTF-8") from None
        place += " is empty"
    else:
        return ""
    if not key:
        raise InvalidPolicy(place)
    if not (key.isascii() and key.isprintable()):
        raise InvalidPolicy("second_look: the endpoint's key has characters that no key has")
    return key


def checked(policy: Policy) -> None:
    """Raise `InvalidPolicy` if the endpoint's key is not where the policy says."""
    if policy.second_look is not None:
        key_of(policy.second_look, os.environ)


class Endpoint:
    """Asks the endpoint. `close` it at the end."""

    def __init__(self) -> None:
        # No proxies, no redirects: the image goes to the address of the policy and nowhere else.
        self._http = httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False)

    async def ask(self, rules: SecondLookRules, question: Question) -> Answer:
        """The model's answer, within `rules.timeout_s`. Raises `LookFailed`."""
        try:
            headers = {"Content-Type": "application/json"}
            if key := key_of(rules, os.environ):
                headers["Authorization"] = f"Bearer {key}"
            async with asyncio.timeout(rules.timeout_s):
                body = await self._post(rules.url.rstrip("/") + PATH, headers, body_of(question))
            return answer_of(body, question.categories)
        except InvalidPolicy:
            raise LookFailed("away", "no_key", retry=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise LookFailed("away", "timeout", retry=True) from None
        except (httpx.TransportError, OSError):
            raise LookFailed("away", "connection", retry=True) from None
        except httpx.HTTPError as error:
            raise LookFailed("garbled", type(error).__name__, retry=False) from None
        except Garbled as garbled:
            raise LookFailed("garbled", str(garbled), retry=False) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        async with self._http.stream("POST", url, headers=headers, content=body, timeout=None) as response:
            status = response.status_code
            if status != httpx.codes.OK:
                raise LookFailed(
                    "away",
                    f"status_{status}",
                    retry=status in RETRIED or status >= 500,
                    retry_after_s=retry_after_s(response.headers.get("Retry-After")),
                )
            answer = bytearray()
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise Garbled("too long")
        return bytes(answer)
