"""Errors of loading a model. The operator sees them once, when the worker starts."""

from __future__ import annotations


class ModelLoadError(Exception):
    """The model or its settings do not fit this machine or this program. The worker stops."""


class ModelLoadRetryable(ModelLoadError):
    """A failure that may pass. Starting the worker again can help.

    The hub or the network is unreachable, or another program uses the memory.
    """
