"""Models of the hub: fetched into its cache, and what it means when that fails."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from contracts.settings import WorkerSettings
from worker.engine.errors import ModelLoadError, ModelLoadRetryable

FAILURES: Final = (OSError, ValueError, httpx.HTTPError)
"""What a download may raise."""
PASSING: Final = frozenset({408, 425, 429})
"""Refusals below 500 that pass: https://www.rfc-editor.org/rfc/rfc9110#name-client-error-4xx."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Of a disk that may be better later."""


def fetch(settings: WorkerSettings, *, halves: bool) -> Path:
    """The folder of the model in the hub's cache, named by its commit; `halves`: its float16 weights, where there are some.

    Raises `ModelLoadError`; `ModelLoadRetryable` where hub or network are at fault.
    """
    wanted = {
        "pretrained_model_name": settings.model,
        "revision": settings.model_revision,
        "use_safetensors": True,
    }
    try:
        if halves:
            with suppress(ValueError):
                # Half the bytes, where the hub has them; it has no better way to ask.
                return Path(DiffusionPipeline.download(**wanted, variant="fp16"))
        return Path(DiffusionPipeline.download(**wanted))
    except FAILURES as error:
        raise refusal(f"DARKROOM_MODEL={settings.model} cannot be fetched", error) from error


def refusal(what: str, error: BaseException) -> ModelLoadError:
    """What to raise for a failed download, with `what` failed before the reason: `ModelLoadRetryable` where it may pass."""
    kind = ModelLoadRetryable if may_pass(error) else ModelLoadError
    return kind(f"{what}: {_reason(error)}")


def may_pass(error: BaseException) -> bool:
    """Whether the same download may succeed later. What the hub itself has said decides, else whether it could be reached."""
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return False
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            status = cause.response.status_code
            return status >= 500 or status in PASSING
        if isinstance(cause, httpx.TransportError | ConnectionError | TimeoutError | socket.gaierror):
            return True
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
    return False


def _reason(error: BaseException) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "the hub has no such model, or shows it to its owners alone."
    # diffusers wraps what the network said in words that do not repeat it.
    lines = [(str(cause).splitlines() or [""])[0] for cause in (causes[0], causes[-1])]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
