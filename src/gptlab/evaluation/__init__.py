"""What looks at finished models: scores on texts and problems, and comparisons."""

from gptlab.evaluation.comparison import Comparison, Difference
from gptlab.evaluation.completion import LineScores, sample_lines, score_lines
from gptlab.evaluation.held_out import Subject, held_out_text, open_subject
from gptlab.evaluation.masked import MaskedScores, score_masked
from gptlab.evaluation.models import compare_models
from gptlab.evaluation.pass_at_k import PassScores, score_samples, write_samples
from gptlab.evaluation.problems import Problem, Sample, read_problems
from gptlab.evaluation.seeds import compare
from gptlab.evaluation.tokens import TokenScores, score_tokens

__all__ = [
    "Comparison",
    "Difference",
    "LineScores",
    "MaskedScores",
    "PassScores",
    "Problem",
    "Sample",
    "Subject",
    "TokenScores",
    "compare",
    "compare_models",
    "held_out_text",
    "open_subject",
    "read_problems",
    "sample_lines",
    "score_lines",
    "score_masked",
    "score_samples",
    "score_tokens",
    "write_samples",
]
