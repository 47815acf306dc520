"""Prompts to embeddings, and a memory of them: popular prompts and the empty negative one are encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as the UNet reads it: `states` (1, tokens, width), `pooled` (1, width) for SDXL; `tokens` before any were cut."""

    states: torch.Tensor
    pooled: torch.Tensor | None
    tokens: int


class PromptEncoder:
    """The text encoders of a pipeline. Holds up to `capacity` texts, the least recently used go first.

    `fixed`: texts in one call, filled up with copies. `encoded` and `skipped` count texts that went through the encoders, and that did not need to.
    """

    def __init__(self, pipeline: Any, capacity: int, fixed: int | None = None) -> None:
        self._fixed = fixed
        second = getattr(pipeline, "text_encoder_2", None)
        self._xl = second is not None
        pairs: list[tuple[Any, Any]] = [
            (getattr(pipeline, "tokenizer", None), getattr(pipeline, "text_encoder", None)),
            (getattr(pipeline, "tokenizer_2", None), second),
        ]
        self._pairs = [(tokenizer, model) for tokenizer, model in pairs if model is not None]
        self._zeros = self._xl and bool(pipeline.config.force_zeros_for_empty_prompt)
        self.capacity = capacity
        self._known: OrderedDict[tuple[Hashable, str], Encoded] = OrderedDict()
        self.variant: Hashable = None
        """What else than the text decides its embeddings now: they are remembered apart."""
        self.encoded = 0
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def limit(self) -> int:
        """Tokens that are read, the two special ones included."""
        return int(self._pairs[0][0].model_max_length)

    def encode(self, texts: Iterable[str]) -> dict[str, Encoded]:
        """Every text's embeddings; the new ones in one batch."""
        wanted = list(texts)
        found = {text: known for text in wanted if (known := self._known.get((self.variant, text)))}
        new = list(dict.fromkeys(text for text in wanted if text not in found))
        self.encoded += len(new)
        self.skipped += len(wanted) - len(new)
        size = self._fixed or len(new)
        for part in (new[at : at + size] for at in range(0, len(new), size or 1)):
            filled = [*part, *[part[-1]] * (size - len(part))]
            found.update(zip(part, self._run(filled), strict=False))
        for text in wanted:
            self._known[self.variant, text] = found[text]
            self._known.move_to_end((self.variant, text))
        while len(self._known) > self.capacity:
            self._known.popitem(last=False)
        return found

    def encode_negative(self, texts: Iterable[str]) -> dict[str, Encoded]:
        """As `encode`; for a model that was trained so, no text is zeros and not the embedding of nothing."""
        wanted = list(texts)
        found = self.encode(wanted)
        if self._zeros and "" in found:
            nothing = found[""]
            pooled = None if nothing.pooled is None else torch.zeros_like(nothing.pooled)
            found[""] = Encoded(torch.zeros_like(nothing.states), pooled, nothing.tokens)
        return found

    def forget(self) -> None:
        """Empty the memory: the encoders have changed."""
        self._known.clear()

    def _run(self, texts: list[str]) -> list[Encoded]:
        tokens: list[int] = []
        parts: list[torch.Tensor] = []
        pooled: torch.Tensor | None = None
        for tokenizer, model in self._pairs:
            ids = tokenizer(texts, truncation=False, verbose=False).input_ids
            tokens = tokens or [len(each) for each in ids]
            inputs, mask = _padded(ids, tokenizer)
            asked = getattr(model.config, "use_attention_mask", False)
            answer = model(
                inputs.to(model.device),
                attention_mask=mask.to(model.device) if asked else None,
                output_hidden_states=self._xl,
            )
            if self._xl:
                pooled = answer[0] if answer[0].ndim == 2 else pooled
                parts.append(answer.hidden_states[-2])
            else:
                parts.append(answer[0])
        states = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        return [
            Encoded(states[i : i + 1], None if pooled is None else pooled[i : i + 1], tokens[i])
            for i in range(len(texts))
        ]


def _padded(rows: list[list[int]], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, (N, limit): cut as the tokenizer cuts, the end token kept."""
    limit = tokenizer.model_max_length
    cut = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
    ids = [row + [tokenizer.pad_token_id] * (limit - len(row)) for row in cut]
    mask = [[1] * len(row) + [0] * (limit - len(row)) for row in cut]
    return torch.tensor(ids), torch.tensor(mask)
