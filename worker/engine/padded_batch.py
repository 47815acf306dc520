"""How a network is called: in calls of one size, so that every picture is bit for bit its own; and as a recording on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import torch

Network = Callable[..., torch.Tensor]
"""Tensors of one number of rows, to a tensor of as many."""
MOST_RECORDINGS: Final = 64
"""Of one network. Each holds the buffers of its shape; what comes later runs as it is."""


def run_padded(network: Network, size: int | None, *rows: torch.Tensor) -> torch.Tensor:
    """`network(*rows)`; with `size` in calls of exactly so many rows, the last filled up with copies of its last row.

    Libraries choose an algorithm by shape, and with it the order of additions: only a call of the same shape rounds alike.
    """
    if size is None:
        return network(*rows)
    parts = []
    for pieces in zip(*(each.split(size) for each in rows), strict=True):
        count = pieces[0].shape[0]
        parts.append(network(*(_filled(each, size) for each in pieces))[:count])
    return torch.cat(parts)


def _filled(rows: torch.Tensor, size: int) -> torch.Tensor:
    missing = size - rows.shape[0]
    return rows.contiguous() if missing == 0 else torch.cat([rows, *[rows[-1:]] * missing])


class Recorder(Protocol):
    """Records what a network launches."""

    def record(
        self, network: Network, buffers: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        """The tensor that holds the answer, and what computes it anew from what is in `buffers`."""
        ...


class CudaRecorder:
    """CUDA graphs, all in one pool of memory: a pass is one launch instead of thousands (docs.pytorch.org, "CUDA Graphs")."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(
        self, network: Network, buffers: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        # Libraries set themselves up in the first calls, which must not be recorded; on a stream of its own, as the manual asks.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                network(*buffers)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            made = network(*buffers)
        return made, graph.replay


class RecordedNetwork:
    """A network that is recorded once for each shape of its arguments, and replayed."""

    def __init__(self, network: Network, recorder: Recorder) -> None:
        self._network = network
        self._recorder = recorder
        self._known: dict[
            tuple[object, ...], tuple[list[torch.Tensor], torch.Tensor, Callable[[], None]]
        ] = {}
        self._aside = False

    def __call__(self, *rows: torch.Tensor) -> torch.Tensor:
        key = tuple((each.shape, each.dtype) for each in rows)
        if self._aside or (key not in self._known and len(self._known) >= MOST_RECORDINGS):
            return self._network(*rows)
        if key not in self._known:
            buffers = [each.clone(memory_format=torch.contiguous_format) for each in rows]
            self._known[key] = (buffers, *self._recorder.record(self._network, buffers))
        buffers, made, replay = self._known[key]
        for buffer, given in zip(buffers, rows, strict=True):
            buffer.copy_(given)
        replay()
        # The next pass writes to the same place.
        return made.clone()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside nothing is replayed; afterwards all is recorded anew. Around changes of the weights, whose addresses recordings hold."""
        self._aside = True
        self._known.clear()
        try:
            yield
        finally:
            self._aside = False
