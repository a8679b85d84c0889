"""What looks at finished models: comparisons with an interval around the difference."""

from gptlab.evaluation.comparison import Comparison, Difference
from gptlab.evaluation.models import compare_models
from gptlab.evaluation.seeds import compare

__all__ = ["Comparison", "Difference", "compare", "compare_models"]
