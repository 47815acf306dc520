"""The content credentials of an image, as the API and the command show them. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from views.job import Wire


class ProvenanceView(Wire):
    """The content credentials (C2PA) of an image. Without `signed` it has none, and nothing else is known."""

    signed: bool
    validity: Literal["trusted", "valid", "invalid"] | None = Field(
        default=None,
        description="valid: unchanged since it was signed. trusted: and the signer is trusted here. "
        "invalid: the file, the signature or the certificate is not what it says.",
    )
    problems: tuple[str, ...] = Field(
        default=(), description="Codes of the C2PA specification, as `assertion.dataHash.mismatch`."
    )
    issuer: str | None = Field(default=None, description="Who the signer's certificate was issued to.")
    generator: str | None = Field(default=None, description="The program that drew it, and its version.")
    model: str | None = None
    model_revision: str | None = None
    source_type: str | None = Field(
        default=None,
        description="The IPTC's digital source type: `trainedAlgorithmicMedia`, or "
        "`compositeWithTrainedAlgorithmicMedia` where it began with an init image.",
    )
    prompt: str | None = Field(default=None, description="Only if the operator signs prompts.")
    negative_prompt: str | None = None
