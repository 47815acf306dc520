"""The second look of a policy: which model looks at held images before people do, and what it may decide."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from contracts.documents import Frozen
from contracts.moderation import Category
from contracts.reviews import Choice
from contracts.urls import web_url

MODEL: Final = r"^[!-~]{1,200}$"
VARIABLE: Final = r"^[A-Z][A-Z0-9_]{0,63}$"
ABSOLUTE: Final = r"^/[^\x00]{1,1000}$"
PATTERNS: Final = {
    MODEL: "the name of a model as the endpoint knows it, without spaces",
    VARIABLE: "the name of an environment variable: capitals, digits and _",
    ABSOLUTE: "an absolute path",
}
"""What each text must be, by its pattern."""


def _without_password(text: str) -> str:
    if "@" in web_url(text).partition("://")[2].partition("/")[0]:
        raise ValueError("it must hold no password: name api_key_env or api_key_file")
    return text


class SecondLookRules(Frozen):
    """Layer 4, before people: a heavy model behind an OpenAI-compatible endpoint."""

    url: Annotated[str, AfterValidator(_without_password)]
    """The endpoint's base, as clients of OpenAI name it: `http://vlm:8000/v1`. Inner addresses are allowed."""
    model: Annotated[str, Field(pattern=MODEL)]
    api_key_env: Annotated[str, Field(pattern=VARIABLE)] | None = None
    """The variable of the process with the endpoint's key. Its value is in no file of the policy."""
    api_key_file: Annotated[str, Field(pattern=ABSOLUTE)] | None = None
    """The file with the endpoint's key, where the process has it. It is read again for each call."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """The longest time of one call."""
    deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long after the image was held the last call may begin. After that people decide."""
    attempts: Annotated[int, Field(ge=1, le=20, strict=True)] = 3
    """How often the endpoint is called for one image while it is away or busy."""
    budget_per_hour: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 1_000
    """The most calls in an hour of UTC, of all processes. Further images wait for people."""
    may: tuple[Choice, ...] = ()
    """What it may decide by itself. Empty: it only advises."""
    describe: dict[Category, Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default_factory=dict
    )
    """What a category means, in words for the model. Without an entry the model gets the name alone."""
    send_prompt: Annotated[bool, Field(strict=True)] = False
    """Whether the endpoint gets the prompt too. It always gets the image."""
    away: Literal["review"] = "review"
    """What follows where the endpoint does not answer, or answers nonsense: people decide."""

    @model_validator(mode="after")
    def _one_key(self) -> SecondLookRules:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("either api_key_env or api_key_file, not both")
        return self
