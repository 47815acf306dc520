"""The settings of the processes of moderation: the one that reads the meaning of prompts, and the one that
lets a model look at held images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.setting_types import Count, Port, Seconds
from contracts.settings import BackendSettings


class ModerationSettings(BackendSettings):
    """The settings of the process that reads the meaning of prompts."""

    moderation_host: str = "127.0.0.1"
    moderation_port: Port = 8020
    """The port at which the API asks; 0: a free one."""
    moderation_token: Annotated[str, Field(repr=False)] = ""
    """What the API must show to this process; empty: nothing."""
    metrics_port: Port = 0
    """The port of the process's `/metrics`, `/healthz` and `/readyz`; 0: none."""


class SecondLookSettings(BackendSettings):
    """The settings of the process that lets a model look at held images. It decides as reviewers do, so it needs
    what the API has of their settings."""

    second_look_concurrency: Count = 4
    """How many calls of the endpoint run at once in one process."""
    reviewers: Annotated[int, Field(ge=1, le=9)] = 1
    """How many reviewers must agree on a held image. With 2, no one person releases or refuses one, unless a
    second look that may vote agrees."""
    review_undo_s: Seconds = 3600.0
    """For how long the file of a refused image is kept, so that the refusal can be undone. Then it is deleted."""
    moderation_log_key: Annotated[str, Field(repr=False)] = ""
    """The key that signs the audit trail of moderation. Without one, the trail is chained by hashes only."""
    metrics_port: Port = 0
    """The port of the process's `/metrics`, `/healthz` and `/readyz`; 0: none."""
