"""The targets of sources, as a command writes them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import TYPE_CHECKING

from gptlab.cli.beams import BeamChoice
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.sources import GivenSource, SourceChoice, check_readable

if TYPE_CHECKING:
    from gptlab.config import SamplingConfig
    from gptlab.generation import Generator

_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
# What is read ahead to find sources of like length.
_BATCHES_AHEAD = 32


def answer_sources(
    generator: "Generator",
    sources: Sequence[GivenSource],
    flags: SamplingFlags,
    *,
    choice: SourceChoice,
    beams: BeamChoice,
    copies: int,
    is_session: bool,
) -> int:
    """Print the target of a source as it is made, or of several, or several of one, each as a line.

    Args:
        generator: Makes them.
        sources: Of what, unless it is a session.
        flags: How.
        choice: Which flags are given, and how many sources are read at once.
        beams: Whether targets are searched for.
        copies: Targets of each source.
        is_session: Whether the user types the sources.

    Returns:
        The exit code.

    Raises:
        ConfigError: A source can't be read; nothing is printed then.
    """
    given, seq_len = choice.model_fields_set, generator.model.config.seq_len
    flags = flags_for_targets(flags, given, seq_len=seq_len, copies=copies)
    if is_session:
        from gptlab.cli.session_loop import talk
        from gptlab.cli.source_session import SourceSession

        return talk(SourceSession(generator, flags))
    lengths = [check_readable(generator, source) for source in sources]
    texts = [source.text for source in sources]
    is_single = len(texts) == copies == 1
    targets: Iterable[str]
    if beams.num_beams is not None:
        targets = (_searched(generator, text, beams, flags.length) for text in texts)
    elif is_single:
        _print_stream(generator, texts[0], flags.sampling())
        return 0
    else:
        targets = _made(
            generator,
            texts,
            lengths,
            flags.sampling(),
            copies=copies,
            batch_size=choice.batch_size,
        )
    for target in targets:
        print(target if is_single else as_line(target), flush=True)
    return 0


def flags_for_targets(
    flags: SamplingFlags, given: AbstractSet[str], *, seq_len: int, copies: int
) -> SamplingFlags:
    """The settings of targets: greedy, unless a flag of drawing is given, and up to their end.

    Args:
        flags: The settings of a text.
        given: Which of them were given.
        seq_len: The model's.
        copies: Targets of each source, which are alike unless they are drawn.
    """
    changes: dict[str, float] = {}
    if copies == 1 and not given & {*_DRAWING}:
        changes["temperature"] = 0.0
    # A target begins with a token of its own.
    room = max(1, seq_len - 1)
    if "length" not in given:
        changes["length"] = room
    elif flags.length > room:
        print(
            f"note: a target has {room} tokens at most, as the model's seq_len is {seq_len}",
            file=sys.stderr,
        )
    return flags.replace(**changes)


def as_line(text: str) -> str:
    r"""A text on one line, with \n for an end of a line within it."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _print_stream(generator: "Generator", text: str, config: "SamplingConfig") -> None:
    try:
        for piece in generator.stream(text, config):
            print(piece, end="", flush=True)
    finally:
        # What there is of it stays, as a line, if it is interrupted.
        print(flush=True)


def _searched(generator: "Generator", text: str, beams: BeamChoice, length: int) -> str:
    assert beams.num_beams is not None
    found = generator.beam_search(
        text, beams=beams.num_beams, max_new_tokens=length, length_penalty=beams.length_penalty
    )
    return found[0].text


def _made(
    generator: "Generator",
    texts: Sequence[str],
    lengths: Sequence[int],
    config: "SamplingConfig",
    *,
    copies: int,
    batch_size: int,
) -> Iterator[str]:
    """The targets of all sources, in order; those of like length are made together.

    A source that comes again has the targets that it had.
    """
    targets: dict[str, list[str]] = {}
    window = batch_size * _BATCHES_AHEAD
    for start in range(0, len(texts), window):
        part = slice(start, start + window)
        sizes = dict(zip(texts[part], lengths[part], strict=True))
        left = sorted(sizes.keys() - targets.keys(), key=lambda text: (sizes[text], text))
        for first in range(0, len(left), batch_size):
            batch = left[first : first + batch_size]
            made = generator.generate([text for text in batch for _ in range(copies)], config)
            for place, text in enumerate(batch):
                targets[text] = made[place * copies : (place + 1) * copies]
        yield from chain.from_iterable(targets[text] for text in texts[part])
