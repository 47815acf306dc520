"""The settings of the process that reads the meaning of prompts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts.setting_types import Port
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
