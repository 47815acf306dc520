"""How a job fails: errors that are kept in its record, below `contracts.errors.DarkroomError`.

    GenerationError
    ├── EngineFault         the model raised for this item
    ├── InvalidOutput       NaN or black picture
    ├── OutOfMemory
    ├── EngineCrashed       the engine process died or hung under this item
    ├── OutOfBounds         beyond what the worker's model can be asked for
    ├── WorkerFault         the worker's own code raised for this job, at each attempt
    ├── AttemptsExhausted
    ├── InitImageLost       the picture to start from was deleted before its turn
    └── DeadLettered        the broker gave its message up

Pictures that cannot be written fail a job with `contracts.errors.BlobStoreUnavailable`.
"""

from __future__ import annotations

from contracts.errors import DarkroomError


class GenerationError(DarkroomError):
    code = "generation_failed"
    type = "generation_error"


class EngineFault(GenerationError):
    code = "engine_fault"


class InvalidOutput(GenerationError):
    code = "invalid_output"


class OutOfMemory(GenerationError):
    code = "out_of_memory"


class WorkerFault(GenerationError):
    code = "worker_fault"

    @classmethod
    def of(cls, error: BaseException) -> WorkerFault:
        """Of what our own code has raised. Its own words may repeat a prompt: the type must do."""
        if isinstance(error, WorkerFault):
            return error
        return cls(f"The worker's own code raised {type(error).__name__} for this job.")


class OutOfBounds(GenerationError):
    """The message asks for what the API would have refused: it was checked against another model, or not at all."""

    code = "out_of_bounds"


class EngineCrashed(GenerationError):
    code = "engine_crashed"
    retryable = True


class AttemptsExhausted(GenerationError):
    code = "attempts_exhausted"


class InitImageLost(GenerationError):
    code = "init_image_lost"
    retryable = True


class DeadLettered(GenerationError):
    code = "dead_lettered"
    retryable = True
