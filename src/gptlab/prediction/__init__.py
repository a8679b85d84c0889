"""What a model says of texts: labels, numbers, vectors, or how they go on."""

from gptlab.prediction.continuation import Continuation, continue_texts
from gptlab.prediction.with_head import ModelWithHead

__all__ = ["Continuation", "ModelWithHead", "continue_texts"]
