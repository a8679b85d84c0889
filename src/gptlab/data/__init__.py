"""Documents to batches: their tokens on disk, and the windows that a step reads."""

from gptlab.data.prepare import prepare_cached, write_tokens
from gptlab.data.sampler import Batch, WindowSampler, sequential_batches
from gptlab.data.shards import TokenDataset

__all__ = [
    "Batch",
    "TokenDataset",
    "WindowSampler",
    "prepare_cached",
    "sequential_batches",
    "write_tokens",
]
