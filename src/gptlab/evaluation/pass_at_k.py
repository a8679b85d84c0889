"""How often one of k programs that a model writes passes the tests of a problem.

Chen et al. 2021, Evaluating Large Language Models Trained on Code, https://arxiv.org/abs/2107.03374.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.execution import PASSED, Limits, run_programs
from gptlab.evaluation.held_out import Subject
from gptlab.evaluation.problems import Problem, Sample
from gptlab.generation import Generator

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a function's body has ended (section 3.2)."""


@dataclass(frozen=True)
class PassScores:
    """How many samples of each problem passed, and what follows from it."""

    pass_at: Mapping[int, float]
    """By k, the probability that one of k samples passes, averaged over the problems."""
    pass_at_error: Mapping[int, float]
    """By k, its standard error over the problems; NaN for a single one."""
    passed: Mapping[str, int]
    """By task_id, how many samples passed."""
    outcomes: Mapping[str, int]
    """How often samples passed, timed out, ended early or raised what."""
    problems: int
    samples: int
    """Of each problem."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the probability that one of `k` samples passes.

    It is the share of the sets of k among all n samples that have one that passed: 1 less the
    binomial of n - c and k over that of n and k (section 2.1).

    Args:
        n: How many samples there are.
        c: How many of them passed.
        k: At most n.

    Raises:
        ConfigError: There are fewer samples than k.
    """
    if not 1 <= k <= n:
        raise ConfigError(
            f"k is {k}, but there are {n} samples of a problem; choose a k from 1 to {n}, or more "
            "--samples"
        )
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def write_samples(
    subject: Subject,
    problems: Sequence[Problem],
    *,
    samples: int,
    config: SamplingConfig,
    batch_size: int,
) -> list[Sample]:
    """What the model writes for each of `problems`, `samples` times, problem by problem.

    The samples of a problem depend on the seed, its task_id and the batch size, and not on what
    other problems there are.

    Args:
        subject: The model.
        problems: What to write.
        samples: Of each problem.
        config: How to draw.
        batch_size: Samples of a problem to write at once.
    """
    generator = Generator(subject.model, subject.tokenizer)
    written: list[Sample] = []
    for problem in tqdm(problems, "problems", disable=None):
        for first in range(0, samples, batch_size):
            # Within a batch, copies of a prompt differ by themselves.
            seed = random.Random(f"{config.seed} {problem.task_id} {first}").getrandbits(32)
            prompts = [problem.prompt] * min(batch_size, samples - first)
            with subject.arithmetic.autocast():
                texts = generator.generate(prompts, config.replace(seed=seed))
            written += [Sample(problem.task_id, text) for text in texts]
    return written


def require_sound(
    problems: Sequence[Problem], *, limits: Limits, workers: int | None = None
) -> None:
    """Run the canonical solutions, so that a model is not blamed for a test that none can pass.

    Raises:
        DataError: One of them does not pass.
    """
    programs = [problem.program(problem.canonical_solution) for problem in problems]
    outcomes = run_programs(programs, limits=limits, workers=workers)
    for problem, outcome in zip(problems, outcomes, strict=True):
        if outcome != PASSED:
            raise DataError(
                f"the canonical_solution of {problem.task_id} does not pass its test here: "
                f"{outcome}; mend that problem, or give it more --timeout"
            )


def score_samples(
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    *,
    ks: Sequence[int],
    limits: Limits,
    workers: int | None = None,
) -> PassScores:
    """Run every sample against its problem's test.

    Args:
        problems: Whose samples they are.
        samples: As many of each problem.
        ks: For which k to give pass@k.
        limits: Of each program.
        workers: Programs to run at a time; one a core if None.

    Raises:
        ConfigError: There are fewer samples of a problem than a k.
    """
    by_id = {problem.task_id: problem for problem in problems}
    each = len(samples) // len(problems)
    for k in ks:
        pass_at_k(each, 0, k)
    programs = [by_id[sample.task_id].program(sample.completion) for sample in samples]
    outcomes = run_programs(programs, limits=limits, workers=workers)
    passed = dict.fromkeys(by_id, 0)
    for sample, outcome in zip(samples, outcomes, strict=True):
        passed[sample.task_id] += outcome == PASSED
    results = {
        k: mean_and_error([pass_at_k(each, count, k) for count in passed.values()]) for k in ks
    }
    return PassScores(
        pass_at={k: mean for k, (mean, _) in results.items()},
        pass_at_error={k: error for k, (_, error) in results.items()},
        passed=passed,
        outcomes=dict(Counter(outcomes).most_common()),
        problems=len(problems),
        samples=each,
    )
