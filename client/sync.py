"""The sync client. `client/aio.py` has the same methods, async."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from httpx_sse import EventSource, SSEError

from client import protocol
from client.errors import ApiError, ClientError, ConnectionFailed, JobFailed, StillRunning
from client.models import Event, Image, Job, JobFields, JobPage, Model, ModelPage
from client.protocol import WAIT_S, EventReader, Retrier


class Client:
    """Talks to one server. Close it, or use it as a context manager. Safe to share between threads.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.server = protocol.server_address(server)
        self._retries = retries
        self._http = httpx.Client(
            base_url=self.server,
            headers=protocol.USER_AGENT,
            auth=protocol.Bearer(self.server, api_key),
            timeout=protocol.TIMEOUT,
            transport=transport,
        )

    def submit(
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
        response = self._send("POST", "/v1/jobs", headers=headers, json=body)
        return protocol.parsed(Job, response)

    def generate(
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
        job = self.submit(prompt, extra=extra, wait_s=wait_s, idempotency_key=idempotency_key, **fields)
        job = self.wait(job, timeout_s)
        if job.status != "succeeded":
            raise JobFailed(job)
        return job

    def job(self, job_id: str, *, wait_s: float = 0.0) -> Job:
        """Returns the job's record.

        The server holds its answer up to `wait_s` seconds (at most 60) until the job has ended.
        Raises `ApiError`, `ConnectionFailed`.
        """
        response = self._send("GET", f"/v1/jobs/{job_id}", headers=protocol.prefer(wait_s))
        return protocol.parsed(Job, response)

    def wait(self, job: Job, timeout_s: float = 300.0) -> Job:
        """Waits by long polls until the job has ended, with whatever status, and returns it.

        Raises `StillRunning` after `timeout_s` seconds, `ApiError`, `ConnectionFailed`.
        """
        until = time.monotonic() + timeout_s
        while not job.ended:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise StillRunning(job)
            job = self.job(job.id, wait_s=max(1.0, min(WAIT_S, left_s)))
        return job

    def events(self, job: Job) -> Iterator[Event]:
        """Yields the job's events as they happen, until the job has ended.

        A broken stream is resumed after the last event. Raises `ClientError` if the server sends
        no events, `ApiError`, `ConnectionFailed`.
        """
        if job.urls.events is None:
            raise ClientError("This server sends no events.")
        reader, retrier = EventReader(), Retrier(self._retries)
        while True:
            try:
                with self._http.stream("GET", job.urls.events, headers=reader.headers()) as response:
                    if response.status_code == 204:
                        return
                    if response.is_error:
                        response.read()
                        protocol.refuse(response)
                    for sent in EventSource(response).iter_sse():
                        if (event := reader.read(sent)) is None:
                            continue
                        retrier = Retrier(self._retries)
                        yield event
                        if protocol.final(event):
                            return
            except SSEError:
                raise protocol.unexpected(response) from None
            except protocol.LOST as error:
                if (pause_s := retrier.after(None)) is None:
                    raise self._lost(error) from None
                time.sleep(pause_s)
            except ApiError as error:
                if error.status not in protocol.RETRY_STATUSES or (pause_s := retrier.after(None)) is None:
                    raise
                time.sleep(max(pause_s, error.retry_after_s or 0.0))

    def cancel(self, job_id: str) -> Job:
        """Cancels a job that has not ended, and returns its record. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(Job, self._send("POST", f"/v1/jobs/{job_id}/cancel"))

    def jobs(self, *, limit: int = 20, after: str | None = None) -> JobPage:
        """Returns one page of up to `limit` of your jobs, newest first.

        `after` is the `next_cursor` of the previous page. Raises `ApiError`, `ConnectionFailed`.
        """
        params = {"limit": str(limit), **({"after": after} if after else {})}
        return protocol.parsed(JobPage, self._send("GET", "/v1/jobs", params=params))

    def image(self, image: Image | str) -> bytes:
        """Returns the bytes of a finished image, or of the image or preview at a URL from an event.

        Raises `ApiError`, `ConnectionFailed`.
        """
        url = image if isinstance(image, str) else image.url
        response = self._send("GET", url, follow_redirects=True)
        if response.is_error:
            protocol.refuse(response)
        return response.content

    def models(self) -> tuple[Model, ...]:
        """Returns the models that the server knows. Raises `ApiError`, `ConnectionFailed`."""
        return protocol.parsed(ModelPage, self._send("GET", "/v1/models")).data

    def ready(self) -> bool:
        """Whether the server accepts jobs and a live worker can run them. Asks once, and raises nothing."""
        try:
            if self._http.get("/readyz").status_code != 200:
                return False
            models = protocol.parsed(ModelPage, self._http.get("/v1/models")).data
        except (httpx.TransportError, ApiError):
            return False
        return any(model.live_workers for model in models)

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        retrier = Retrier(self._retries)
        while True:
            try:
                response = self._http.request(method, path, **rest)
            except protocol.LOST as error:
                if (pause_s := retrier.after(None)) is None:
                    raise self._lost(error) from None
            else:
                if (pause_s := retrier.after(response)) is None:
                    return response
            time.sleep(pause_s)

    def _lost(self, error: Exception) -> ConnectionFailed:
        return ConnectionFailed(f"{self.server} does not answer: {error or type(error).__name__}")
