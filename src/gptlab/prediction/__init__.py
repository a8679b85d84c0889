"""What a model says of texts: labels, numbers, vectors, how they go on, or what is hidden."""

from gptlab.prediction.continuation import Continuation, continue_texts
from gptlab.prediction.filled_masks import FilledMasks, fill_masks
from gptlab.prediction.with_head import ModelWithHead

__all__ = ["Continuation", "FilledMasks", "ModelWithHead", "continue_texts", "fill_masks"]
