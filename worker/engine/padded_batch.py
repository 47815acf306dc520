"""Two ways to call a network: in calls of one batch size, and as a recording (CUDA graph).

With one batch size, an image is bit-identical whatever it is batched with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import torch

Network = Callable[..., torch.Tensor]
"""A function of tensors (B, ...) of any dtype to a tensor (B, ...). All have the same number of rows B."""
MOST_RECORDINGS: Final = 64
"""Recordings of one network. Each holds the buffers of its shape; further shapes run eagerly."""


def run_padded(network: Network, size: int | None, *rows: torch.Tensor) -> torch.Tensor:
    """Return `network(*rows)`, (B, ...), in the network's dtype.

    `rows` are tensors (B, ...) of any dtypes. With a `size`, the network is called with exactly
    `size` rows each time. The last call is filled up with copies of the last row.

    Libraries choose an algorithm by shape, and with it the order of additions. Only calls of the
    same shape round alike.
    """
    if size is None:
        return network(*rows)
    outputs = []
    for chunks in zip(*(tensor.split(size) for tensor in rows), strict=True):
        count = chunks[0].shape[0]
        outputs.append(network(*(_padded(chunk, size) for chunk in chunks))[:count])
    return torch.cat(outputs)


def _padded(rows: torch.Tensor, size: int) -> torch.Tensor:
    missing = size - rows.shape[0]
    return rows.contiguous() if missing == 0 else torch.cat([rows, *[rows[-1:]] * missing])


class Recorder(Protocol):
    """Records the kernels that a network launches."""

    def record(
        self, network: Network, buffers: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        """Record `network(*buffers)`; the buffers are (B, ...), of any dtypes.

        Returns the output, (B, ...), and a function that computes it again, in place, from the
        present contents of `buffers`.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs, all in one memory pool.

    A replay is one launch instead of thousands (docs.pytorch.org, "CUDA Graphs").
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(
        self, network: Network, buffers: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], None]]:
        """Record `network(*buffers)` as a CUDA graph; see `Recorder.record`.

        The buffers and the output are (B, ...), of any dtypes, on the current CUDA device.
        """
        # Libraries initialise in the first calls, which must not be recorded. PyTorch's manual asks for a
        # side stream.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(2):
                network(*buffers)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = network(*buffers)
        return output, graph.replay


class RecordedNetwork:
    """A network that is recorded once for each shape and dtype of its arguments, and then replayed."""

    def __init__(self, network: Network, recorder: Recorder) -> None:
        self._network = network
        self._recorder = recorder
        self._recordings: dict[
            tuple[object, ...], tuple[list[torch.Tensor], torch.Tensor, Callable[[], None]]
        ] = {}
        self._eager = False

    def __call__(self, *rows: torch.Tensor) -> torch.Tensor:
        """Return `network(*rows)`, (B, ...), in the network's dtype. `rows` are (B, ...), of any dtypes."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in rows)
        if self._eager or (key not in self._recordings and len(self._recordings) >= MOST_RECORDINGS):
            return self._network(*rows)
        if key not in self._recordings:
            buffers = [tensor.clone(memory_format=torch.contiguous_format) for tensor in rows]
            self._recordings[key] = (buffers, *self._recorder.record(self._network, buffers))
        buffers, output, replay = self._recordings[key]
        for buffer, tensor in zip(buffers, rows, strict=True):
            buffer.copy_(tensor)
        replay()
        # The next replay writes to the same memory.
        return output.clone()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Return a context for changes of the weights, whose addresses the recordings hold.

        Inside, nothing is replayed. Afterwards everything is recorded anew.
        """
        self._eager = True
        self._recordings.clear()
        try:
            yield
        finally:
            self._eager = False
