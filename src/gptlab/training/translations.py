"""What a Transformer writes for sources, and how near that is to what was expected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError, DataError
from gptlab.generation import Generator

SACREBLEU = 'sacrebleu; pip install "gptlab[bleu]"'
"""What is missing where it is not installed."""


@dataclass(frozen=True)
class TextScores:
    """Of a corpus of texts, from 0 to 100; a higher one is better."""

    bleu: float
    """Papineni et al. 2002, https://aclanthology.org/P02-1040."""
    chrf: float
    """Popović 2015, https://aclanthology.org/W15-3049."""
    signature: str
    """How sacrebleu computed BLEU, so that others can compare (Post 2018,
    https://aclanthology.org/W18-6319)."""


def write_targets(
    generator: Generator,
    sources: Sequence[str],
    *,
    length: int,
    rows: int = 64,
    before_batch: Callable[[], None] = lambda: None,
) -> list[str]:
    """The target of each source by greedy generation: token by token, each the likeliest.

    Args:
        generator: A Transformer's.
        sources: What it reads.
        length: The most tokens of a target.
        rows: Sources to read at once.
        before_batch: May raise to break it off.
    """
    # Sources of like length together: less filling.
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    config = SamplingConfig(temperature=0.0, max_new_tokens=length)
    targets = [""] * len(sources)
    for first in range(0, len(order), rows):
        before_batch()
        numbers = order[first : first + rows]
        written = generator.generate([sources[number] for number in numbers], config)
        for number, target in zip(numbers, written, strict=True):
            targets[number] = target
    return targets


def score_texts(written: Sequence[str], expected: Sequence[str]) -> TextScores:
    """BLEU and chrF by sacrebleu, with its usual settings.

    Raises:
        ConfigError: sacrebleu is not installed.
        DataError: There is no text, or not as many of both.
    """
    require_sacrebleu()
    if not written or len(written) != len(expected):
        raise DataError(
            f"{len(written)} written texts can't be compared with {len(expected)} expected ones; "
            "give as many of both, and at least one"
        )
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    references = [list(expected)]
    return TextScores(
        bleu=bleu.corpus_score(list(written), references).score,
        chrf=chrf.corpus_score(list(written), references).score,
        signature=str(bleu.get_signature()),
    )


def require_sacrebleu() -> None:
    """Refuse to score texts without sacrebleu.

    Raises:
        ConfigError: It is not installed.
    """
    if not has_sacrebleu():
        raise ConfigError(f"BLEU and chrF need {SACREBLEU}, or leave them out")


def has_sacrebleu() -> bool:
    """Whether it is installed."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        return False
    return True
