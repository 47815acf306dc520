"""Start-time fair queueing over tenants and priority classes (Goyal, Vin and Cheng, SIGCOMM 1996).

A *flow* is one tenant's jobs of one class. Every accepted job gets a start tag: the flow's last finish
tag, or the virtual time if the flow had no waiting job. The job with the smallest tag runs first. With
each job, a flow's tags advance by cost over weight. A tenant with ten thousand jobs thus has ten thousand
increasing tags, while the next job of another tenant gets the current one. Unlike deficit round robin
this needs no list of flows to walk, and any sorted set can hold the queue.

The job store keeps the virtual time and the tags (`store/lua/ticket.lua`). This module defines the names,
weights and costs of flows.
"""

from __future__ import annotations

from typing import Final

from contracts.jobs import Priority
from contracts.models import ModelSpec
from contracts.requests import GenerationRequest
from scheduler.previews import preview_steps

CLASS_WEIGHT: Final = {Priority.INTERACTIVE: 8.0, Priority.BATCH: 1.0}
"""Shares of the device when both classes have work. Batch jobs get a ninth, so they never starve."""


def flow_of(tenant: str, priority: Priority) -> str:
    """The name of the flow of a tenant's jobs of one class."""
    return f"{priority.value}:{tenant}"


def weight_of(priority: Priority, tenant_weight: float = 1.0) -> float:
    """The weight of a flow: its share of the device is in proportion to it."""
    return CLASS_WEIGHT[priority] * tenant_weight


def cost_of(request: GenerationRequest, spec: ModelSpec) -> float:
    """The cost of a request, in denoising steps of one image at the model's default size."""
    pixels = request.width * request.height / (spec.default_width * spec.default_height)
    passes = 2 if request.guidance_scale > 1 else 1
    # A preview costs one pass through the decoder, about as much as a step.
    previews = len(preview_steps(request.steps_taken, request.previews))
    return (request.steps * passes + previews) * pixels
