"""The next version, as far as this one must get on with it: `patched newer` makes a process of ours write what it would.

Everything that is stored or sent has a field more. Every second job, by its seed, also needs the next `SCHEMA`: a process of
this version must leave it to one of the next.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from contracts.documents import SCHEMA

NEXT: Final = SCHEMA + 1
MORE: Final = {"hue": {"degrees": 0.5}}
"""A field that this version has never heard of."""


def newer(_: str) -> None:
    from contracts import documents
    from contracts.jobs import JobMessage, JobResult, Origin
    from contracts.models import ModelSpec, WorkerInfo
    from contracts.requests import GenerationRequest
    from store import scripts, taking
    from store.jobs import RedisJobStore

    for module in (documents, taking):
        vars(module)["SCHEMA"] = NEXT
    vars(scripts)["lua_source"] = _with_more_in_lua(scripts.lua_source)
    for model in (GenerationRequest, JobResult, Origin, ModelSpec, WorkerInfo):
        _write_more(model)
    dump = JobMessage.model_dump

    def dump_more(message: Any, **how: Any) -> dict[str, Any]:
        written = dump(message, **how)
        return {**written, **MORE, "request": {**written["request"], **MORE}}

    submit, end = RedisJobStore.submit_many, RedisJobStore.end_many

    def needing(new: Any) -> Any:
        request = new.request.model_copy(update={"min_schema": NEXT if new.request.seed % 2 else 1})
        return new.model_copy(update={"request": request})

    async def submit_more(store: Any, asked: Any) -> Any:
        return await submit(store, [replace(each, new=needing(each.new)) for each in asked])

    async def end_more(store: Any, ends: Any) -> Any:
        for each in ends:
            channel = f"{store.layout.job_prefix(each.lease.job_id)}events"
            await store._client.publish(channel, f"{each.lease.job_id} hue 0.5")
        return await end(store, ends)

    vars_of: dict[Any, dict[str, Any]] = {
        JobMessage: {"model_dump": dump_more},
        RedisJobStore: {"submit_many": submit_more, "end_many": end_more},
    }
    for owner, changed in vars_of.items():
        for name, value in changed.items():
            setattr(owner, name, value)


def _write_more(model: Any) -> None:
    """Whatever is written of `model` as JSON has a field more."""
    dump = model.model_dump_json

    def dump_more(document: Any, **how: Any) -> str:
        return json.dumps({**json.loads(dump(document, **how)), **MORE}, separators=(",", ":"))

    model.model_dump_json = dump_more


def _with_more_in_lua(real: Any) -> Any:
    def source(name: str) -> str:
        text: str = real(name)
        static = "'status', 'queued', 'cache', cache)"
        assert static in text
        return text.replace(static, "'status', 'queued', 'cache', cache, 'hue', '0.5')")

    return source
