"""How well a model writes the next line of a held-out text."""

import difflib
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tqdm import tqdm

from gptlab.config import SamplingConfig
from gptlab.data import TokenDataset
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.held_out import Subject, documents
from gptlab.generation import Generator
from gptlab.tokenizer import Tokenizer

# Characters of the text before a line that are encoded for each token that there is room for.
_CHARACTERS_PER_TOKEN = 16
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Line:
    """A line of a document that a model is to write."""

    before: str
    """Everything before it in the document; ends with a newline."""
    text: str
    """The line without its newline."""


@dataclass(frozen=True)
class LineScores:
    """How the written lines compare with those that are there, with standard errors."""

    exact: float
    """Share of lines that are the same, character by character."""
    exact_error: float
    stripped: float
    """Share of lines that are the same but for whitespace at their ends."""
    stripped_error: float
    similarity: float
    """Mean of difflib's ratio: 2 * characters in matching pieces / characters of both lines."""
    similarity_error: float
    lines: int


def sample_lines(
    datasets: Sequence[TokenDataset], tokenizer: Tokenizer, *, count: int, seed: int
) -> list[Line]:
    """`count` lines drawn without replacement, or all if there are no more, in their order.

    A line counts where another one stands before it in its document, a newline ends it, and it is
    not blank.

    Raises:
        DataError: There is no such line.
        ConfigError: The documents are not held out.
    """
    ends = list(accumulate(len(_starts(text)) for text in documents(datasets, tokenizer)))
    if not ends or not ends[-1]:
        raise DataError(
            "the text has no line to write, for each needs one before it and a newline behind it; "
            "give a text of several lines"
        )
    total = ends[-1]
    drawn = sorted(random.Random(seed).sample(range(total), min(count, total)))
    wanted: dict[int, list[int]] = {}
    for number in drawn:
        document = bisect_right(ends, number)
        wanted.setdefault(document, []).append(number - (ends[document - 1] if document else 0))
    lines = []
    for index, text in enumerate(documents(datasets, tokenizer)):
        if index in wanted:
            starts = _starts(text)
            for start in (starts[number] for number in wanted[index]):
                lines.append(Line(text[:start], text[start : text.index("\n", start)]))
    return lines


def score_lines(
    subject: Subject, lines: Sequence[Line], *, max_new_tokens: int, batch_size: int
) -> LineScores:
    """Write each of `lines` greedily from the text before it, up to a newline, and compare.

    The model reads as much of the text as its context holds beside the new tokens.

    Args:
        subject: The model.
        lines: At least one.
        max_new_tokens: Tokens of a line at most; a longer one can't be right.
        batch_size: Lines to write at once.

    Raises:
        ConfigError: The context has no room for so many new tokens.
    """
    room = subject.model.config.seq_len - max_new_tokens
    if room < 1:
        raise ConfigError(
            f"max_new_tokens is {max_new_tokens}, which leaves no context of the model's seq_len "
            f"of {subject.model.config.seq_len}; write a smaller --max_new_tokens"
        )
    generator = Generator(subject.model, subject.tokenizer)
    config = SamplingConfig(max_new_tokens=max_new_tokens, temperature=0, stop=("\n",))
    written: list[str] = []
    for first in tqdm(range(0, len(lines), batch_size), "lines", disable=None):
        batch = lines[first : first + batch_size]
        prompts = [_context(line.before, subject.tokenizer, room) for line in batch]
        with subject.arithmetic.autocast():
            written += generator.generate(prompts, config)
    return compare_lines([line.text for line in lines], written)


def compare_lines(expected: Sequence[str], written: Sequence[str]) -> LineScores:
    """Hold each line that was written against the one that is there."""
    pairs = list(zip(expected, written, strict=True))
    exact, exact_error = mean_and_error([there == new for there, new in pairs])
    stripped, stripped_error = mean_and_error([a.strip() == b.strip() for a, b in pairs])
    similarity, similarity_error = mean_and_error(
        [difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in pairs]
    )
    return LineScores(
        exact=exact,
        exact_error=exact_error,
        stripped=stripped,
        stripped_error=stripped_error,
        similarity=similarity,
        similarity_error=similarity_error,
        lines=len(pairs),
    )


def _starts(text: str) -> list[int]:
    """Where the lines begin that may be drawn."""
    starts = []
    start = text.find("\n") + 1
    while start and (end := text.find("\n", start)) >= 0:
        if text[start:end].strip():
            starts.append(start)
        start = end + 1
    return starts


def _context(before: str, tokenizer: Tokenizer, room: int) -> str:
    """The end of `before`, of at most `room` tokens."""
    text = before[-room * _CHARACTERS_PER_TOKEN :]
    ids = tokenizer.encode(text)
    kept = room
    while len(ids) > room:
        # The cut may lie within a character, and what is left may be other tokens than it was.
        text = tokenizer.decode(ids[-kept:]).lstrip(_BROKEN) or "\n"
        ids, kept = tokenizer.encode(text), kept - 1
    return text
