"""Layer 2, the meaning of prompts: embeds texts and asks the heads of the policy in force. Batched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from contracts.meaning import MeaningAnswer
from contracts.moderation import Finding
from moderation.embedding import MiniLm, pieces
from moderation.heads import Heads
from moderation.live import LivePolicy
from runtime.grouping import Grouped
from telemetry import metrics

MAX_BATCH: Final = 16
"""Texts of one batch. The model gains little from larger ones, and the first text would wait longer."""


class Meaning:
    """The heads of a policy for the event loop. `close` ends its thread."""

    def __init__(self, model: MiniLm, live: LivePolicy[Heads]) -> None:
        self.live = live
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._texts: Grouped[str, tuple[Finding, ...]] = Grouped(self._run, limit=MAX_BATCH)

    async def look(self, texts: Sequence[str]) -> MeaningAnswer:
        """What each text means, with a score for each head."""
        title = self.live.now.policy.title
        findings = await asyncio.gather(*(self._texts.add(text) for text in texts))
        return MeaningAnswer(policy=title, findings=tuple(findings))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def _run(self, texts: Sequence[str]) -> Sequence[tuple[Finding, ...] | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._findings, texts)

    def _findings(self, texts: Sequence[str]) -> Sequence[tuple[Finding, ...] | Exception]:
        begun = time.perf_counter()
        parts, owners = [], []
        for number, text in enumerate(texts):
            of_text = pieces(text)
            parts += of_text
            owners += [number] * len(of_text)
        found = self.live.now.compiled.find(self._model.texts(parts), owners, len(texts))
        metrics.LAYER_SECONDS.labels("embedding").observe(time.perf_counter() - begun)
        return list(found)
