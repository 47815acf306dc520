"""Whose turn it is: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over tenants and priority classes.

A *flow* is one tenant's jobs of one class. Every job gets a start tag when it is accepted: the flow's last finish tag, or the
virtual time if the flow had nothing waiting. The job with the smallest tag goes first. A flow's tags move on by cost over weight with
each job, so a tenant with ten thousand jobs has ten thousand tags ahead of it, while the next job of anybody else
gets the present one. Unlike deficit round robin this needs no list of flows to walk, and any sorted set can hold it.

The job store keeps the virtual time and the tags (`store/lua/ticket.lua`). This module names the flows, and says what each weighs and
costs.
"""

from __future__ import annotations

from typing import Final

from contracts.jobs import Priority
from contracts.models import ModelSpec
from contracts.requests import GenerationRequest
from scheduler.previews import preview_steps

CLASS_WEIGHT: Final = {Priority.INTERACTIVE: 8.0, Priority.BATCH: 1.0}
"""Shares of the device when both classes have work: batch jobs get a ninth of it, so they never starve."""


def flow_of(tenant: str, priority: Priority) -> str:
    """The name of a tenant's jobs of one class."""
    return f"{priority.value}:{tenant}"


def weight_of(priority: Priority, tenant_weight: float = 1.0) -> float:
    """What the flow's share of the device is in proportion to."""
    return CLASS_WEIGHT[priority] * tenant_weight


def cost_of(request: GenerationRequest, spec: ModelSpec) -> float:
    """What a request asks of the device: denoising steps of one image at the model's default size."""
    pixels = request.width * request.height / (spec.default_width * spec.default_height)
    passes = 2 if request.guidance_scale > 1 else 1
    # What a preview asks, one trip through the decoder, is of the order of a step.
    previews = len(preview_steps(request.steps_taken, request.previews))
    return (request.steps * passes + previews) * pixels
