"""What comes of a prompt: a text, and how it came about."""

from collections.abc import Sequence
from dataclasses import dataclass

from gptlab.generation.beam import Beam
from gptlab.generation.rows import Ending, Token
from gptlab.generation.stream import TextStream
from gptlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Completion:
    """What follows a prompt, and how it came about."""

    text: str
    """Without a stop text."""
    tokens: tuple[Token, ...]
    """All that were drawn, those of a stop text included; with log-probabilities if asked for."""
    ending: Ending
    """`eos`, `stop`, or `length` if it got as many tokens as it may."""


@dataclass(frozen=True)
class Found:
    """A text that beam search found."""

    text: str
    log_probability: float
    """Of its tokens after the prompt, in nats."""
    score: float
    """What it was ranked by."""


def texts_of_beams(
    beams: Sequence[Beam], tokenizer: Tokenizer, *, prompt: Sequence[int], eos_id: int | None
) -> list[Found]:
    """The texts of `beams`, which follow `prompt`; an end of text has none."""
    texts = []
    for beam in beams:
        stream = TextStream(tokenizer, prompt=prompt)
        pieces = [stream.push(token) for token in beam.ids if token != eos_id]
        text = "".join(pieces) + stream.finish()
        texts.append(Found(text, beam.log_probability, beam.score))
    return texts
