"""What each tenant has used, per day. It shows operators who loads the platform. Not for bills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MEASURES: Final = ("jobs", "hits", "joined", "images", "steps", "refused")
"""Accepted jobs; those answered from the cache; those that joined another job; images of accepted jobs;
denoising steps of all images of computed jobs; refused jobs."""
KEEP_DAYS: Final = 35

Counts = Mapping[tuple[str, str], int]
"""Counts by tenant and measure."""
