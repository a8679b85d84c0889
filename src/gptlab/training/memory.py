"""A run that does not fit into memory, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gptlab.errors import TrainingError


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn a failed allocation within into a TrainingError that says what to write."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a plain RuntimeError that only its text tells apart.
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_memory and "memory" not in str(error):
            raise
        raise TrainingError(
            "the run does not fit into memory; write a smaller --batch_size, --seq_len, "
            "--embed_dim or --num_layers"
        ) from error
