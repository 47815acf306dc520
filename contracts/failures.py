"""How a job fails: the errors that are kept in its record, below `contracts.errors.DarkroomError`.

    GenerationError
    ├── EngineFault         the model raised for this image
    ├── InvalidOutput       NaN or a black image
    ├── OutOfMemory
    ├── EngineCrashed       the engine process died or hung under this image
    ├── OutOfBounds         the request exceeds the limits of the worker's model
    ├── WorkerFault         the worker's own code raised for this job, on every attempt
    ├── AttemptsExhausted
    ├── InitImageLost       the init image was deleted before the job ran
    └── DeadLettered        the broker gave up on its message

A job whose images cannot be written fails with `contracts.errors.BlobStoreUnavailable`, and one whose images are
all blocked with `contracts.errors.ContentBlocked`.
"""

from __future__ import annotations

from contracts.errors import DarkroomError


class GenerationError(DarkroomError):
    """Base of the errors that end a job as `failed`."""

    code = "generation_failed"
    type = "generation_error"


class EngineFault(GenerationError):
    """The model raised an exception for this image."""

    code = "engine_fault"


class InvalidOutput(GenerationError):
    """The model drew NaN or a black image."""

    code = "invalid_output"


class OutOfMemory(GenerationError):
    """The image does not fit into the device's memory, even alone."""

    code = "out_of_memory"


class WorkerFault(GenerationError):
    """The worker's own code raised for this job, on every attempt."""

    code = "worker_fault"

    @classmethod
    def of(cls, error: BaseException) -> WorkerFault:
        """The failure for an exception of the worker's own code.

        It names only the exception's type: its text may repeat a prompt.
        """
        if isinstance(error, WorkerFault):
            return error
        return cls(f"The worker's own code raised {type(error).__name__} for this job.")


class OutOfBounds(GenerationError):
    """The request exceeds the limits of the worker's model.

    The API would have refused it. The message was checked against another model, or not at all.
    """

    code = "out_of_bounds"


class EngineCrashed(GenerationError):
    """The engine process died or hung while it drew this image."""

    code = "engine_crashed"
    retryable = True


class AttemptsExhausted(GenerationError):
    """The job has used up its attempts."""

    code = "attempts_exhausted"


class InitImageLost(GenerationError):
    """The init image was deleted before the job ran."""

    code = "init_image_lost"
    retryable = True


class DeadLettered(GenerationError):
    """The broker gave up on the job's message."""

    code = "dead_lettered"
    retryable = True
