"""Documents to batches: their tokens on disk, and the windows that a step reads."""

from gptlab.data.batches import Batch, PairBatch
from gptlab.data.cached import prepare_cached
from gptlab.data.mixture import MixedSampler
from gptlab.data.pair_sampler import PairSampler
from gptlab.data.pairs import PairDataset
from gptlab.data.sampler import Sampler, WindowSampler, sequential_batches
from gptlab.data.shard_writer import DatasetWriter
from gptlab.data.shards import TokenDataset

__all__ = [
    "Batch",
    "DatasetWriter",
    "MixedSampler",
    "PairBatch",
    "PairDataset",
    "PairSampler",
    "Sampler",
    "TokenDataset",
    "WindowSampler",
    "prepare_cached",
    "sequential_batches",
]
