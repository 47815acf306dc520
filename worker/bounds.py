"""The limits of this worker.

A job beyond them fails at once, before anything is allocated for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.failures import OutOfBounds
from contracts.jobs import JobFailure
from contracts.models import ModelSpec
from contracts.requests import MAX_TEXT_CHARS, GenerationRequest
from scheduler.bounds import request_faults


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of the loaded model. `max_images_per_job` is the platform's setting."""

    spec: ModelSpec
    max_images_per_job: int

    @property
    def max_images(self) -> int:
        """The most images of a job.

        Workers of one model may have different batch sizes, and any of them may get the job.
        """
        return max(self.spec.max_batch, self.max_images_per_job)

    def failure(self, request: GenerationRequest) -> JobFailure | None:
        """Why the worker does not run the request; None: it does."""
        faults = request_faults(request, self.spec, max_images=self.max_images, max_text_chars=MAX_TEXT_CHARS)
        first_fault = next(iter(faults), None)
        if first_fault is None:
            return None
        return JobFailure(code=OutOfBounds.code, message=first_fault[1], retryable=OutOfBounds.retryable)

    def steps(self, request: GenerationRequest) -> int:
        """The denoising steps of one image of the request."""
        return self.spec.step_counts.of(request.num_inference_steps, request.strength)
