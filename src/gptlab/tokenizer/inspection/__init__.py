"""A closer look at tokenizers: what they make of a text, side by side."""

from gptlab.tokenizer.inspection.compare import compare
from gptlab.tokenizer.inspection.measure import Measurement, TokenCount, measure, measure_all
from gptlab.tokenizer.inspection.picture import picture

__all__ = ["Measurement", "TokenCount", "compare", "measure", "measure_all", "picture"]
