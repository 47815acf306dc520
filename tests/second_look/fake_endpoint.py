"""A fake endpoint, for tests alone: a real HTTP server that speaks OpenAI's chat completions.

Requests are checked against the types of OpenAI's own package, and so are its good answers. What its model
"sees" is what the test says.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

REQUEST = TypeAdapter[Any](CompletionCreateParamsNonStreaming)
MODEL = "look-7b"


def completion(content: str | None, finish_reason: str = "stop") -> bytes:
    """A chat completion with that content."""
    message = {"role": "assistant", "content": content, "refusal": None}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": finish_reason, "logprobs": None, "message": message}],
    }
    return ChatCompletion.model_validate(document).model_dump_json().encode()


def scored(scores: Mapping[str, float], reason: str = "it looks so") -> bytes:
    """A good answer."""
    return completion(json.dumps({"reason": reason, "scores": dict(scores)}))


@dataclass(frozen=True)
class Seen:
    """One request: what the model was asked."""

    headers: dict[str, str]
    document: dict[str, Any]
    image: bytes
    content_type: str
    text: str


@dataclass
class FakeEndpoint:
    """`answers` are given one after the other, the last one for ever. Each is a status, (status, headers), or the
    bytes of a body."""

    url: str
    answers: list[Any] = field(default_factory=lambda: [scored({"weapons": 0.5})])
    hold: threading.Event | None = None
    """Where set, every answer waits for it."""
    requests: list[Seen] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Until that many requests have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests) >= count, timeout_s), len(self.requests)


def seen_in(headers: dict[str, str], body: bytes) -> Seen:
    """The request, checked against OpenAI's types."""
    document = json.loads(body)
    checked = REQUEST.validate_python(document)
    messages = [{**message, "content": message["content"]} for message in checked["messages"]]
    assert [message["role"] for message in messages] == ["system", "user"]
    user = json.loads(body)["messages"][1]["content"]
    text, picture = user
    head, _, data = picture["image_url"]["url"].partition(";base64,")
    schema = document["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["additionalProperties"] is False
    return Seen(
        headers, document, base64.b64decode(data, validate=True), head.removeprefix("data:"), text["text"]
    )


class _Handler(BaseHTTPRequestHandler):
    endpoint: FakeEndpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        endpoint = self.endpoint
        try:
            assert self.path == "/v1/chat/completions", self.path
            seen = seen_in({k.lower(): v for k, v in self.headers.items()}, body)
        except Exception as fault:  # noqa: BLE001 - the test raises it
            endpoint.faults.append(fault)
            self.send_error(400)
            return
        with endpoint.arrived:
            endpoint.requests.append(seen)
            number = len(endpoint.requests)
            endpoint.arrived.notify_all()
        if endpoint.hold is not None:
            endpoint.hold.wait(120)
        answer = endpoint.answers[min(number, len(endpoint.answers)) - 1]
        if isinstance(answer, bytes):
            self._send(200, {"Content-Type": "application/json"}, answer)
        else:
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self._send(status, headers, b"{}")

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            return  # it did not wait for us

    def log_message(self, *_: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        return


@contextmanager
def endpoint_running() -> Iterator[FakeEndpoint]:
    """A fake endpoint on a free port of loopback. At the end it raises what was wrong with requests."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    endpoint = FakeEndpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
    handler.endpoint = endpoint  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        if endpoint.hold is not None:
            endpoint.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
    if endpoint.faults:
        raise endpoint.faults[0]
