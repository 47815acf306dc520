"""The data of a tenant as documents that a person can read. Secrets, and what could replace one,
are left out. So are held images, and what only moderators may know of a verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Final

from backends.redis_client import store_errors
from contracts.moderation import SHOWN
from store.key_names import ANY, fair_prefix
from store.quotas import account_prefix
from store.record_names import Record, inner, parsed, request_in
from store.tenant_data import WHAT, Found, TenantData
from store.webhooks import gone_prefix

NESTED: Final = ("result", "failure", "fault", "origin", "webhook")
"""Fields of a record that hold JSON."""
TOLD: Final = ("state", "categories", "policy")
"""What an owner may know of a verdict."""
HIDDEN: Final = frozenset({"digest", "value"})
"""The hash of an API key, and the secret that signs webhooks."""


async def jobs(data: TenantData) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Id and document of each job, with its webhook delivery. Raises `StoreUnavailable`."""
    state = data.servers.state
    async for page in data.jobs():
        owing = [record["id"] for record in page if "webhook" in record]
        async with store_errors(WHAT, data.servers.timeout_s), state.pipeline(transaction=False) as pipeline:
            for job_id in owing:
                prefix = data.servers.layout.job_prefix(job_id)
                pipeline.hgetall(f"{prefix}hook:{job_id}")
                pipeline.lrange(f"{prefix}hooklog:{job_id}", 0, -1)
            answers = await pipeline.execute() if owing else []
        hooks = dict(zip(owing, zip(answers[::2], answers[1::2], strict=True), strict=True))
        for record in page:
            hook, log = hooks.get(record["id"], ({}, []))
            yield record["id"], _document(record, hook, log)


async def documents(data: TenantData, found: Found) -> dict[str, Any]:
    """A document for each kind of data except jobs and images. Kinds without data are left out.
    Raises `StoreUnavailable`."""
    accounts: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, key_id in found.accounts.items():
        accounts[key_id][name.removeprefix(account_prefix(key_id))] = await _value(data, name)
    before, _, after = f"{fair_prefix(ANY)}finish".partition(ANY)
    (room,) = found.singles["room_account"] or (None,)
    secrets: list[Any] = []
    for name in found.singles["webhook_secrets"]:
        secrets += parsed(await _value(data, name)) or []
    all_documents = {
        "api_keys": [_shown(key) for key in found.api_keys.values()],
        "quota_accounts": dict(accounts),
        "usage_days": found.usage,
        "idempotency_keys": [reservation_shown(each) for each in found.reservations.values()],
        "cached_results": [shown_result(result) for result in found.results.values()],
        "picture_records": [
            record
            async for page in data.embedded(lambda tenant: tenant == data.tenant)
            for images in page.values()
            for record in images.values()
            if record is not None
        ],
        "reviews": [
            {"job_id": job_id, "images": [int(index) for index in indexes.split(",")]}
            for jobs in found.reviews.values()
            for job_id, indexes in jobs.items()
        ],
        "appeals": [{"day": int(name.split(":")[-2])} for name in sorted(found.singles["appeals"])],
        "queue_shares": {
            name.removeprefix(before).removesuffix(after): flows for name, flows in found.shares.items()
        },
        "similar_prompts": [
            prompt for name in sorted(found.similar) for prompt in await _prompts(data, name)
        ],
        "search_clicks": {
            name.rpartition(":")[2]: await _value(data, name)
            for name in sorted(found.singles["search_clicks"])
            if ":counts:" in name
        },
        "room_account": await _value(data, room) if room else None,
        "webhook_secrets": [_shown(secret) for secret in secrets],
        "webhook_receivers": [
            {"url_sha256": name.removeprefix(gone_prefix(data.tenant))}
            for name in sorted(found.singles["webhook_receivers"])
        ],
        "import_hashes": [
            {"sha256": name.rpartition(":")[2]} for name in sorted(found.singles["import_hashes"])
        ],
    }
    return {kind: document for kind, document in all_documents.items() if document}


def _document(record: Record, hook: dict[str, str], log: list[str]) -> dict[str, Any]:
    request = request_in(record)
    if isinstance(request, dict):
        request = {name: value for name, value in request.items() if name != "moderation"}
    document: dict[str, Any] = {**record, "request": request}
    document |= {name: parsed(record[name]) for name in NESTED if record.get(name)}
    if "result" in document:
        document["result"] = shown_result(document["result"])
    if hook:
        document["webhook_delivery"] = {**hook, "attempts": [parsed(entry) for entry in log]}
    return document


def reservation_shown(reservation: Any) -> Any:
    """What an idempotency key stands for, without what the policy found in its prompts. Pure."""
    if not isinstance(reservation, dict):
        return reservation
    if isinstance(new := reservation.get("new"), dict) and isinstance(request := new.get("request"), dict):
        shown = {name: value for name, value in request.items() if name != "moderation"}
        return {**reservation, "new": {**new, "request": shown}}
    return reservation


def shown_result(result: Any) -> Any:
    """A result as its owner may see it: no name of an image that may not be seen, and no finding. Pure."""
    images = inner(result, "images")
    if not isinstance(images, list):
        return result
    return {**result, "images": [_shown_image(image) for image in images]}


def _shown_image(image: Any) -> Any:
    verdict = inner(image, "moderation")
    if not isinstance(verdict, dict):
        return image
    told = {name: verdict.get(name) for name in TOLD}
    return {**image, "name": image.get("name") if verdict.get("state") in SHOWN else "", "moderation": told}


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in HIDDEN}


async def _value(data: TenantData, name: str) -> Any:
    """The value of a string, a hash or a sorted set."""
    state: Any = data.servers.state
    async with store_errors(WHAT, data.servers.timeout_s):
        match await state.type(name):
            case "string":
                return await state.get(name)
            case "hash":
                return await state.hgetall(name)
            case "zset":
                return dict(await state.zrange(name, 0, -1, withscores=True))
    return None


async def _prompts(data: TenantData, name: str) -> list[str]:
    """The prompts of a list of prompts that similar ones are compared with."""
    cached: Any = data.servers.cached
    async with store_errors("result cache", data.servers.timeout_s):
        texts = await cached.lrange(name, 0, -1)
    return [prompt for text in texts if isinstance(prompt := inner(parsed(text), "prompt"), str)]
