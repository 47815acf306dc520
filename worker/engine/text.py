"""Prompts to embeddings, with a cache: popular prompts and the empty negative prompt are encoded once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from runtime.lru import LruCache


@dataclass(frozen=True, slots=True)
class Encoded:
    """The embeddings of one text, in the precision of the text encoders."""

    prompt_embeds: torch.Tensor
    """(1, tokens, width), what the UNet reads as `encoder_hidden_states`."""
    pooled_prompt_embeds: torch.Tensor | None
    """(1, width), for SDXL; None for other models."""
    tokens: int
    """How many tokens the text has, before truncation."""


class PromptEncoder:
    """The text encoders of a pipeline, with an LRU cache of up to `capacity` texts.

    `fixed_batch` is the number of texts in every call; the last call is filled up with copies. None
    leaves it open. `encoded` counts the texts that went through the encoders, and `skipped` those
    that were in the cache.
    """

    def __init__(self, pipeline: Any, capacity: int, fixed_batch: int | None = None) -> None:
        self._fixed_batch = fixed_batch
        text_encoder_2 = getattr(pipeline, "text_encoder_2", None)
        self._xl = text_encoder_2 is not None
        pairs: list[tuple[Any, Any]] = [
            (getattr(pipeline, "tokenizer", None), getattr(pipeline, "text_encoder", None)),
            (getattr(pipeline, "tokenizer_2", None), text_encoder_2),
        ]
        self._pairs = [(tokenizer, model) for tokenizer, model in pairs if model is not None]
        self._zeros_for_empty = self._xl and bool(pipeline.config.force_zeros_for_empty_prompt)
        self.capacity = capacity
        self._cache = LruCache[tuple[Hashable, str], Encoded](capacity)
        self.variant: Hashable = None
        """What decides the embeddings besides the text. It is part of the cache's key."""
        self.encoded = 0
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def limit(self) -> int:
        """How many tokens the model reads, the two special tokens included."""
        return int(self._pairs[0][0].model_max_length)

    def encode(self, texts: Iterable[str]) -> dict[str, Encoded]:
        """Return the embeddings of every text. Texts that are not in the cache are encoded in one batch."""
        requested = list(texts)
        encoded = {text: cached for text in requested if (cached := self._cache.get((self.variant, text)))}
        new = list(dict.fromkeys(text for text in requested if text not in encoded))
        self.encoded += len(new)
        self.skipped += len(requested) - len(new)
        size = self._fixed_batch or len(new)
        for batch in (new[at : at + size] for at in range(0, len(new), size or 1)):
            padded = [*batch, *[batch[-1]] * (size - len(batch))]
            encoded.update(zip(batch, self._run(padded), strict=False))
        for text in requested:
            self._cache[self.variant, text] = encoded[text]
        return encoded

    def encode_negative(self, texts: Iterable[str]) -> dict[str, Encoded]:
        """Return the embeddings of negative prompts, as `encode` does.

        Some models were trained with zeros for an empty negative prompt
        (`force_zeros_for_empty_prompt`). They get zeros and not the embedding of the empty text.
        """
        requested = list(texts)
        encoded = self.encode(requested)
        if self._zeros_for_empty and "" in encoded:
            empty = encoded[""]
            pooled = (
                None if empty.pooled_prompt_embeds is None else torch.zeros_like(empty.pooled_prompt_embeds)
            )
            encoded[""] = Encoded(torch.zeros_like(empty.prompt_embeds), pooled, empty.tokens)
        return encoded

    def forget(self) -> None:
        """Empty the cache, because the encoders have changed."""
        self._cache.clear()

    def _run(self, texts: list[str]) -> list[Encoded]:
        token_counts: list[int] = []
        hidden_states: list[torch.Tensor] = []
        pooled: torch.Tensor | None = None
        for tokenizer, model in self._pairs:
            ids = tokenizer(texts, truncation=False, verbose=False).input_ids
            token_counts = token_counts or [len(text_ids) for text_ids in ids]
            input_ids, mask = _padded(ids, tokenizer)
            uses_mask = getattr(model.config, "use_attention_mask", False)
            output = model(
                input_ids.to(model.device),
                attention_mask=mask.to(model.device) if uses_mask else None,
                output_hidden_states=self._xl,
            )
            if self._xl:
                pooled = output[0] if output[0].ndim == 2 else pooled
                hidden_states.append(output.hidden_states[-2])
            else:
                hidden_states.append(output[0])
        embeds = torch.cat(hidden_states, -1) if len(hidden_states) > 1 else hidden_states[0]
        return [
            Encoded(embeds[i : i + 1], None if pooled is None else pooled[i : i + 1], token_counts[i])
            for i in range(len(texts))
        ]


def _padded(rows: list[list[int]], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, each (N, limit), int64. Truncated as the tokenizer does; the end token stays."""
    limit = tokenizer.model_max_length
    cut = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
    ids = [row + [tokenizer.pad_token_id] * (limit - len(row)) for row in cut]
    mask = [[1] * len(row) + [0] * (limit - len(row)) for row in cut]
    return torch.tensor(ids), torch.tensor(mask)
