"""Why a model cannot be served: said once, for the operator, when the worker starts."""

from __future__ import annotations


class ModelLoadError(Exception):
    """The model, or the way that it is to run, does not fit this machine or this program. The worker stops."""


class ModelLoadRetryable(ModelLoadError):
    """It may pass: the hub or the network is away, or another program has the memory. Starting the worker again is of use."""
