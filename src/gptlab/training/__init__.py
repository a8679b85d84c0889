"""From data and settings to a trained model."""

from gptlab.training.evaluate import Evaluation, evaluate
from gptlab.training.loop import TrainResult, train
from gptlab.training.losses import cross_entropy

__all__ = ["Evaluation", "TrainResult", "cross_entropy", "evaluate", "train"]
