"""The difference between two things that were measured in pairs, and how sure it is."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptlab.errors import ConfigError
from gptlab.training.files import replace_text

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """B against A in one measure, of which less is better."""

    a: float
    """Mean of A."""
    b: float
    """Mean of B."""
    difference: float
    """B - A: below 0 where B is better."""
    low: float
    """The difference is at least this, with 95% confidence."""
    high: float
    """It is at most this."""
    p_value: float
    """How likely so large a difference is where there is none."""
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """A and B side by side."""

    a: str
    """Name of A."""
    b: str
    """Name of B."""
    paired_by: Literal["seed", "window", "pair"]
    """What a pair of numbers has in common."""
    unit: str
    """Of all numbers: "nats per token", "nats per hidden token" or "bits per byte"."""
    measures: Mapping[str, Difference]
    """By name, the one that decides first."""
    values: Mapping[str, Mapping[str, Sequence[float]]]
    """By name of the measure and of A or B, a number a seed; empty without seeds."""

    @property
    def verdict(self) -> str:
        """The result in a sentence or two."""
        result = next(iter(self.measures.values()))
        better, worse = (self.b, self.a) if result.difference < 0 else (self.a, self.b)
        count = f"{result.pairs:,} {self.paired_by}s"
        if result.difference == result.low == result.high == 0:
            return f"{self.a} and {self.b} are the same on all {count}"
        if result.is_clear:
            near, far = sorted((abs(result.low), abs(result.high)))
            return (
                f"{better} is better than {worse} by {abs(result.difference):.4f} {self.unit} "
                f"(95% sure that it is {near:.4f} to {far:.4f}, on {count})"
            )
        remedy = "; more seeds may tell" if self.paired_by == "seed" else ""
        return (
            f"no difference is shown between {self.a} and {self.b}: {result.difference:+.4f} "
            f"{self.unit}, but chance alone gives up to {_half(result):.4f} on {count}{remedy}"
        )

    def table(self) -> str:
        """All measures as lines to be read."""
        name = max(map(len, [*self.measures, "b - a"]))
        width = max(len(self.a), len(self.b), 9)
        head = f"{'':{name}}  {self.a:>{width}}  {self.b:>{width}}"
        lines = [f"{head}  {'difference':>10}  {'95% interval':>18}  {'p':>7}"]
        for label, result in self.measures.items():
            interval = f"{result.low:+.4f} to {result.high:+.4f}"
            lines.append(
                f"{label:{name}}  {result.a:{width}.4f}  {result.b:{width}.4f}  "
                f"{result.difference:+10.4f}  {interval:>18}  {result.p_value:7.2g}"
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {**asdict(self), "confidence": CONFIDENCE, "verdict": self.verdict}

    def save(self, path: Path) -> None:
        """Write `as_dict` as JSON."""
        replace_text(path, json.dumps(self.as_dict(), indent=1) + "\n")


def paired_difference(
    a: Sequence[float], b: Sequence[float], weights: Sequence[float] | None = None
) -> Difference:
    """The mean of b - a over pairs, with Student's t interval around it.

    With `weights`, `a` and `b` are sums over so many things each, and the means are those over all
    things, as `mean_and_error` has them. Without them, that is the plain paired t-test.

    Args:
        a: (n,) numbers of A, at least two.
        b: (n,) numbers of B.
        weights: (n,) positive numbers.

    Raises:
        ConfigError: There are fewer than two pairs, or SciPy is not installed.
    """
    student_t = require_scipy()
    count = len(a)
    if count < 2:
        raise ConfigError(f"there is {count} pair to compare, but an interval needs at least 2")
    sums_a, sums_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sizes = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    total = sizes.sum()
    mean, error = mean_and_error(sums_b - sums_a, sizes)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    if error > 0:
        p_value = float(2 * student_t.sf(abs(mean) / error, count - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    return Difference(
        a=float(sums_a.sum() / total),
        b=float(sums_b.sum() / total),
        difference=mean,
        low=mean - half,
        high=mean + half,
        p_value=p_value,
        pairs=count,
    )


def mean_and_error(sums: npt.ArrayLike, sizes: npt.ArrayLike | None = None) -> tuple[float, float]:
    """The mean over all things of some samples of them, and its standard error.

    The samples differ in size, so it is a ratio of sums, whose variance is linearised (Cochran
    1977, Sampling Techniques, 6.4). Where all sizes are 1, that is the plain standard error.

    Args:
        sums: (n,) the sum over the things in each sample.
        sizes: (n,) how many things that are, in all more than none; 1 each if None.

    Returns:
        The mean and the error, which is NaN for a single sample.
    """
    totals = np.asarray(sums, np.float64)
    counts = np.ones_like(totals) if sizes is None else np.asarray(sizes, np.float64)
    mean = float(totals.sum() / counts.sum())
    if len(totals) < 2:
        return mean, math.nan
    residuals = totals - mean * counts
    squares = len(totals) / (len(totals) - 1) * float(residuals @ residuals)
    return mean, math.sqrt(squares) / float(counts.sum())


def require_scipy() -> Any:
    """Student's t distribution of SciPy.

    Raises:
        ConfigError: SciPy is not installed.
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise ConfigError("comparing needs the scipy package; pip install scipy") from None
    return t


def _half(result: Difference) -> float:
    return (result.high - result.low) / 2
