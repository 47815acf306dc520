"""A sync and an async client of Darkroom's REST API.

The package needs httpx and pydantic, and no other package of this repository.

with Client("http://127.0.0.1:8000") as darkroom:
    job = darkroom.generate("a red apple", seed=7)
    png = darkroom.image(job.images[0])
"""

from client.admin import CacheStats, Delivery, Key, KeyFields, NewKey, WebhookSecret
from client.aio import AsyncClient
from client.errors import (
    ApiError,
    BadRequest,
    ClientError,
    ConnectionFailed,
    ContentBlocked,
    Forbidden,
    Gone,
    ImageWithheld,
    JobFailed,
    NotFound,
    ServerError,
    StillRunning,
    Throttled,
    Unauthorized,
    Unavailable,
)
from client.models import Event, Image, Job, JobFields, JobPage, Model, Moderation
from client.reviews import Appealed, Review, ReviewPage, TrailEntry, TrailPage
from client.search import Evidence, Hit, Rebuild, SearchFilters, SearchIndex, SearchPage
from client.sync import Client

__all__ = [
    "ApiError",
    "Appealed",
    "AsyncClient",
    "BadRequest",
    "CacheStats",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "ContentBlocked",
    "Delivery",
    "Event",
    "Evidence",
    "Forbidden",
    "Gone",
    "Hit",
    "Image",
    "ImageWithheld",
    "Job",
    "JobFailed",
    "JobFields",
    "JobPage",
    "Key",
    "KeyFields",
    "Model",
    "Moderation",
    "NewKey",
    "NotFound",
    "Rebuild",
    "Review",
    "ReviewPage",
    "SearchFilters",
    "SearchIndex",
    "SearchPage",
    "ServerError",
    "StillRunning",
    "Throttled",
    "TrailEntry",
    "TrailPage",
    "Unauthorized",
    "Unavailable",
    "WebhookSecret",
]
