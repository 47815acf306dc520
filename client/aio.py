"""The async client. It has the methods of `client/sync.py`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from client import protocol
from client.admin import CacheStats, Delivery, Key, KeyFields, KeyPage, NewKey, Purged, WebhookSecret
from client.errors import ApiError, ClientError, ConnectionFailed, ImageWithheld, JobFailed, StillRunning
from client.models import Event, Image, Job, JobFields, JobPage, Model, ModelPage
from client.protocol import WAIT_S, EventReader, Retrier
from client.review_calls import AsyncReviewCalls
from client.search_calls import AsyncSearchCalls


class AsyncClient(AsyncReviewCalls, AsyncSearchCalls):
    """Talks to one server. Close it, or use it as a context manager. An object belongs to one event loop.

    `server` and `api_key` default to DARKROOM_SERVER and DARKROOM_API_KEY. The client retries
    temporary refusals (429, 502 to 504) and lost connections up to `retries` times. The
    pauses follow `Retry-After`. Every submit carries an `Idempotency-Key`. `transport`
    replaces httpx's own transport.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        retries: int = protocol.RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.server = protocol.server_address(server)
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=self.server,
            headers=protocol.USER_AGENT,
            auth=protocol.Bearer(self.server, api_key),
            timeout=protocol.within(),
            transport=transport,
        )

    async def submit(
        self,
        prompt: str,
        *,
        extra: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        **fields: Unpack[JobFields],
    ) -> Job:
        """Submits a job, and returns its record.

        The server holds its answer up to `wait_s` seconds until the job has ended. `extra` holds
        request fields that `JobFields` does not have. Submits with the same `idempotency_key`
        make one job; by default each call has a new key. Raises `ApiError`, `ConnectionFailed`.
        """
        body = protocol.submission(prompt, {**fields, **(extra or {})})
        headers = {
            "Idempotency-Key": idempotency_key or protocol.new_idempotency_key(),
            **protocol.prefer(wait_s),
        }
        response = await self._send("POST", "/v1/jobs", headers=headers, json=body)
        return protocol.parsed(Job, response)

    async def generate(
        self,
        prompt: str,
        *,
        extra: Mapping[str, Any] | None = None,
        timeout_s: float = 300.0,
        idempotency_key: str | None = None,
        **fields: Unpack[JobFields],
    ) -> Job:
        """Submits a job, waits for it up to `timeout_s` seconds, and returns it, succeeded.

        Raises `JobFailed`, `StillRunning`, `ApiError`, `ConnectionFailed`.
        """
        wait_s = min(WAIT_S, timeout_s)
        job = await self.submit(prompt, extra=extra, wait_s=wait_s, idempotency_key=idempotency_key, **fields)
        job = await self.wait(job, timeout_s)
        if job.status != "succeeded":
            raise JobFailed(job)
        return job

    async def job(self, job_id: str, *, wait_s: float = 0.0) -> Job:
        """Returns the job's record.

        The server holds its answer up to `wait_s` seconds (at most 60) until the job has ended.
        Raises `ApiError`, `ConnectionFailed`.
        """
        response = await self._send("GET", f"/v1/jobs/{job_id}", headers=protocol.prefer(wait_s))
        return protocol.parsed(Job, response)

    async def wait(self, job: Job, timeout_s: float = 300.0) -> Job:
        """Waits by long polls until the job has ended, with whatever status, and returns it.

        Raises `StillRunning` after `timeout_s` seconds, `ApiError`, `ConnectionFailed`.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        while not job.ended:
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                raise StillRunning(job)
            if left_s < 1:  # a server holds an answer for whole seconds
                await asyncio.sleep(left_s)
            job = await self.job(job.id, wait_s=min(WAIT_S, left_s))
        return job

    async def events(self, job: Job, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """Yields the job's events as they happen, until the job has ended.

        A broken stream is resumed after the last event. Raises `StillRunning` after `timeout_s`
        seconds, `ClientError` if the server sends no events, `ApiError`, `ConnectionFailed`.
        """
        if job.urls.events is None:
            raise ClientError("This server sends no events.")
        reader, retrier = EventReader(), Retrier(self._retries)
        now = asyncio.get_running_loop().time
        until = math.inf if timeout_s is None else now() + timeout_s
        while True:
            if (left_s := until - now()) <= 0:
                raise StillRunning(job)
            timeout, pause_s = protocol.within(left_s), 0.0
            try:
                async with self._http.stream(
                    "GET", job.urls.events, headers=reader.headers(), timeout=timeout
                ) as response:
                    if response.status_code == 204:
                        return
                    if response.is_error:
                        await response.aread()
                        protocol.refuse(response)
                    sent_events = EventSource(response).aiter_sse()
                    while (sent := await _next(sent_events, until)) is not None:
                        if (event := reader.read(sent)) is None:
                            continue
                        retrier = Retrier(self._retries)
                        yield event
                        if protocol.final(event):
                            return
            except SSEError:
                raise protocol.unexpected(response) from None
            except TimeoutError:
                raise StillRunning(job) from None
            except protocol.LOST as error:
                if now() >= until:
                    continue
                if (backoff_s := retrier.after(None)) is None:
                    raise self._lost(error) from None
                pause_s = backoff_s
            except ApiError as error:
                if error.status not in protocol.RETRY_STATUSES or (backoff_s := retrier.after(None)) is None:
                    raise
                pause_s = max(backoff_s, error.retry_after_s or 0.0)
            await asyncio.sleep(max(0.0, min(pause_s, until - now())))

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job that has not ended, and returns its record. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Job, await self._send("POST", f"/v1/jobs/{job_id}/cancel"))

    async def jobs(self, *, limit: int = 20, after: str | None = None) -> JobPage:
        """Returns one page of up to `limit` of your jobs, newest first.

        `after` is the `next_cursor` of the previous page. Raises `ApiError`, `ConnectionFailed`.
        """
        params = {"limit": str(limit), **({"after": after} if after else {})}
        return protocol.parsed(JobPage, await self._send("GET", "/v1/jobs", params=params))

    async def image(self, image: Image | str) -> bytes:
        """Returns the bytes of a finished image, or of the image or preview at a URL from an event.

        Raises `ApiError`, `ConnectionFailed`, and `ImageWithheld` if the content policy withholds it.
        """
        url = image if isinstance(image, str) else image.url
        if url is None:
            raise ImageWithheld(image.verdict if isinstance(image, Image) else "")
        response = await self._send("GET", url, follow_redirects=True)
        if response.is_error:
            protocol.refuse(response)
        return response.content

    async def models(self) -> tuple[Model, ...]:
        """Returns the models that the server knows. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(ModelPage, await self._send("GET", "/v1/models")).data

    async def create_key(self, tenant: str, **fields: Unpack[KeyFields]) -> NewKey:
        """Creates an API key, and returns it with its secret. The API key of this client needs the scope admin.

        A lost connection is not tried again, because the key may exist. Raises `ApiError`,
        `ConnectionFailed`.
        """
        body = {name: value for name, value in fields.items() if value is not None}
        response = await self._send("POST", "/v1/keys", retries=0, json={"tenant": tenant, **body})
        return protocol.parsed(NewKey, response)

    async def keys(self, *, tenant: str | None = None) -> tuple[Key, ...]:
        """Returns all API keys, or those of `tenant`, newest first; revoked ones too.

        Raises `ApiError`, `ConnectionFailed`.
        """
        params = {"tenant": tenant} if tenant else {}
        return protocol.parsed(KeyPage, await self._send("GET", "/v1/keys", params=params)).data

    async def revoke_key(self, key_id: str) -> Key:
        """Revokes an API key for good, and returns it. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Key, await self._send("DELETE", f"/v1/keys/{key_id}"))

    async def cache_stats(self) -> CacheStats:
        """Returns what the result cache holds and has answered. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(CacheStats, await self._send("GET", "/v1/cache"))

    async def purge_cache(
        self,
        *,
        key: str | None = None,
        model: str | None = None,
        revision: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Forgets every cached result that matches all given parameters, and returns their number.

        At least one is needed. `key` is the `X-Cache-Key` of a job. Raises `ApiError`, `ConnectionFailed`.
        """
        given = {"key": key, "model": model, "revision": revision, "tenant": tenant}
        params = {name: value for name, value in given.items() if value is not None}
        return protocol.parsed(Purged, await self._send("DELETE", "/v1/cache", params=params)).purged

    async def webhook_delivery(self, job_id: str) -> Delivery:
        """Returns every attempt to report the end of a job. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Delivery, await self._send("GET", f"/v1/jobs/{job_id}/webhook"))

    async def webhook_secret(self) -> WebhookSecret:
        """Returns the secret that signs your webhooks. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(WebhookSecret, await self._send("GET", "/v1/webhooks/secret"))

    async def rotate_webhook_secret(self) -> WebhookSecret:
        """Replaces the secret that signs your webhooks. Both sign for a day.

        A lost connection is not tried again, because a second rotation ends the old secret at once.
        Raises `ApiError`, `ConnectionFailed`.
        """
        return protocol.parsed(
            WebhookSecret, await self._send("POST", "/v1/webhooks/secret/rotate", retries=0)
        )

    async def ready(self) -> bool:
        """Whether the server accepts jobs and a live worker can run them. Asks once, and raises nothing."""
        try:
            if (await self._http.get("/readyz")).status_code != 200:
                return False
            models = protocol.parsed(ModelPage, await self._http.get("/v1/models")).data
        except (httpx.TransportError, ApiError):
            return False
        return any(model.live_workers for model in models)

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(
        self, method: str, path: str, *, retries: int | None = None, **rest: Any
    ) -> httpx.Response:
        retrier = Retrier(self._retries if retries is None else retries)
        while True:
            try:
                response = await self._http.request(method, path, **rest)
            except protocol.LOST as error:
                if (pause_s := retrier.after(None)) is None:
                    raise self._lost(error) from None
            else:
                if (pause_s := retrier.after(response)) is None:
                    return response
            await asyncio.sleep(pause_s)

    def _lost(self, error: Exception) -> ConnectionFailed:
        return ConnectionFailed(f"{self.server} does not answer: {error or type(error).__name__}")


async def _next(sent: AsyncIterator[ServerSentEvent], until: float) -> ServerSentEvent | None:
    """Returns the next event; None at the end. Raises `TimeoutError` at the time `until` of the loop's clock."""
    async with asyncio.timeout_at(None if until == math.inf else until):
        return await anext(sent, None)
