"""Downloads of models from the hub into its local cache, and the errors of failed downloads."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx2
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from contracts.settings import WorkerSettings
from worker.engine.errors import ModelLoadError, ModelLoadRetryable

FAILURES: Final = (OSError, ValueError, httpx2.HTTPError)
"""The exceptions that a download may raise."""
PASSING: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 that may pass: https://www.rfc-editor.org/rfc/rfc9110#name-client-error-4xx."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Error numbers of a full or failing disk, which may pass."""


def fetch(settings: WorkerSettings, *, halves: bool) -> Path:
    """Download the model of the settings. Return its folder in the hub's cache, which is named by the commit.

    With `halves`, the float16 weights are downloaded if the hub has them. Raises `ModelLoadError`,
    and its subclass `ModelLoadRetryable` if the hub or the network is at fault.
    """
    options = {
        "pretrained_model_name": settings.model,
        "revision": settings.model_revision,
        "use_safetensors": True,
    }
    try:
        if halves:
            with suppress(ValueError):
                # Half the bytes. Trying is the only way to find out whether the hub has them.
                return Path(DiffusionPipeline.download(**options, variant="fp16"))
        return Path(DiffusionPipeline.download(**options))
    except FAILURES as error:
        raise refusal(f"DARKROOM_MODEL={settings.model} cannot be fetched", error) from error


def fetch_files(setting: str, repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Download the files of a repository that match the patterns. Return their folder, named by the commit.

    `setting` is the variable's name and an equals sign. Raises as `fetch`.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except FAILURES as error:
        raise refusal(f"{setting}{repository} cannot be fetched", error) from error


def refusal(what: str, error: BaseException) -> ModelLoadError:
    """Return the error to raise for a failed download: `ModelLoadRetryable` if it may pass.

    `what` is the sentence before the reason.
    """
    kind = ModelLoadRetryable if may_pass(error) else ModelLoadError
    return kind(f"{what}: {_reason(error)}")


def may_pass(error: BaseException) -> bool:
    """Return whether the same download may succeed later.

    The hub's answer decides. If there is none, it may pass if the hub was unreachable or the disk
    failed.
    """
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return False
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            status = cause.response.status_code
            return status >= 500 or status in PASSING
        if isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError | socket.gaierror):
            return True
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
    return False


def _reason(error: BaseException) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "the hub has no such model, or shows it to its owners alone."
    # The message of diffusers does not repeat the network's error, so both are given.
    lines = [(str(cause).splitlines() or [""])[0] for cause in (causes[0], causes[-1])]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
