"""Steps that a GPU repeats by itself, as recorded, without being told kernel by kernel.

A step of a small model is hundreds of short kernels, and starting them takes longer than they do.
A recording (a CUDA graph, https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) starts them
all at once, and always works on the same memory: its inputs are copied there, and a cache has to
stay where it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gptlab.model.cache import Memory

Step = Callable[
    [Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[Tensor], Sequence[Memory]], Tensor
]

_WARM_UPS = 2


class _Name(NamedTuple):
    """What a recording is of."""

    memory: tuple[int, ...]
    dtype: torch.dtype
    shape: torch.Size
    places: int
    of_source: int


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    tokens_B1: Tensor
    positions_B1: Tensor
    lengths_B: Tensor | None
    """Of the sources that a decoder remembers."""
    logits_BV: Tensor


class RecordedSteps:
    """A step that is recorded once for each cache, number of rows and number of places.

    Args:
        step: What to record; called again with the same input, it must do the same.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._recordings: dict[_Name, _Recording] = {}

    def __call__(
        self,
        tokens_B1: Tensor,
        positions_B1: Tensor,
        places_S: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        memories: Sequence[Memory],
    ) -> Tensor:
        """What the step gives, in memory that the next call overwrites."""
        remembered = [tensor for memory in memories for tensor in (memory.keys, memory.values)]
        memory = tuple(tensor.data_ptr() for tensor in (*keys, *values, *remembered))
        of_source = remembered[0].shape[1] if remembered else 0
        name = _Name(memory, keys[0].dtype, keys[0].shape, len(places_S), of_source)
        with torch.cuda.device(tokens_B1.device):
            recording = self._recordings.get(name)
            if recording is None:
                recording = self._record(tokens_B1, positions_B1, places_S, keys, values, memories)
                self._recordings[name] = recording
            recording.tokens_B1.copy_(tokens_B1)
            recording.positions_B1.copy_(positions_B1)
            if recording.lengths_B is not None:
                recording.lengths_B.copy_(_lengths(memories))
            recording.graph.replay()
        return recording.logits_BV

    def forget(self, keys: Sequence[Tensor]) -> None:
        """Drop what was recorded over a cache, which is told by its keys."""
        first = keys[0].data_ptr()
        for name in [name for name in self._recordings if name.memory[0] == first]:
            del self._recordings[name]

    def _record(
        self,
        tokens_B1: Tensor,
        positions_B1: Tensor,
        places_S: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        memories: Sequence[Memory],
    ) -> _Recording:
        inputs = (tokens_B1.clone(), positions_B1.clone())
        lengths_B = _lengths(memories).clone() if memories else None
        memories = [memory._replace(lengths_B=lengths_B) for memory in memories]
        # What is set up at the first call can't be recorded; libraries do so a stream.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._step(*inputs, places_S, keys, values, memories)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits_BV = self._step(*inputs, places_S, keys, values, memories)
        return _Recording(graph, *inputs, lengths_B, logits_BV)


def _lengths(memories: Sequence[Memory]) -> Tensor:
    """Of the sources, which are the same in each layer."""
    lengths_B = memories[0].lengths_B
    assert lengths_B is not None
    return lengths_B
