"""The work of `darkroom moderation fit`: reads prompts, embeds them, fits, and writes the head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Unfit(Exception):
    """A file or a package cannot be used. The message says which, and why."""


def fit_head(prompts: Path, category: str, out: Path, recall: float) -> dict[str, Any]:
    """Fits a head on the file `prompts` and writes it to `out`. Returns its figures. Raises `Unfit`."""
    try:
        import numpy as np

        from moderation.embedding import MiniLm, ModelMissing
        from moderation.fit import InvalidPrompts, fitted, read_prompts
        from moderation.heads import HeadFile
    except ImportError as error:
        raise Unfit(f"{error.name} is not installed: the extra `moderation` has it") from None
    try:
        texts, labels = read_prompts(prompts.read_text(encoding="utf-8-sig"), category)
        model = MiniLm()
    except OSError as error:
        raise Unfit(f"{prompts} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unfit(f"{prompts} is not UTF-8") from None
    except (InvalidPrompts, ModelMissing) as error:
        raise Unfit(f"{prompts}: {error}" if isinstance(error, InvalidPrompts) else str(error)) from None
    # One text at a time: the figures are then of vectors that do not depend on their neighbours.
    vectors = np.concatenate([model.texts([text]) for text in texts])
    phrases: tuple[str, ...] = ()
    if out.exists():
        try:
            phrases = HeadFile.model_validate_json(out.read_bytes()).phrases
        except ValueError:
            raise Unfit(f"{out} exists and is no head: it is left alone") from None
    try:
        head, told = fitted(texts, vectors, labels, category, recall=recall, phrases=phrases)
    except InvalidPrompts as error:
        raise Unfit(f"{prompts}: {error}") from None
    note = (
        f"{told.harmful} harmful and {told.benign} benign prompts; held out: AUC {told.auc:.4f}, "
        f"recall {told.recall:.4f} and false alarms {told.false_alarms:.4f} at {told.threshold:.4f}"
    )
    beside = out.with_name(f".{out.name}.new")
    try:
        beside.write_text(head.model_copy(update={"note": note}).model_dump_json() + "\n", encoding="utf-8")
        os.replace(beside, out)  # a process that reads it at this moment sees the old one or the new one
    except OSError as error:
        raise Unfit(f"{out} cannot be written: {error.strerror}") from None
    return {
        "harmful": told.harmful,
        "benign": told.benign,
        "auc": told.auc,
        "threshold": told.threshold,
        "recall": told.recall,
        "false_alarms": told.false_alarms,
        "roc": told.roc,
    }
