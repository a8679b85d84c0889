"""Prompts to rows, and what rows get to text."""

from collections import Counter
from collections.abc import Sequence
from itertools import repeat

from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.generation.constraints import make_constraint
from gptlab.generation.rows import Row, Token
from gptlab.generation.stream import TextStream
from gptlab.tokenizer import Tokenizer


def make_rows(
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    vocab_size: int,
    sources: Sequence[Sequence[int]] | None = None,
    unknown_V: Tensor | None = None,
    eos_id: int | None = None,
) -> list[Row]:
    """A row a prompt, whose seed depends on its earlier copies and nothing else.

    Args:
        tokenizer: Whose ids they are.
        prompts: Ids, which may be none of those that are unknown.
        config: How tokens are drawn, and how many.
        vocab_size: Number of the model's logits.
        sources: For a model with an encoder, what each row is made of beside its prompt.
        unknown_V: What `vocabulary.unknown_ids` says of both.
        eos_id: The token that ends a row; the tokenizer's end of text if None.

    Raises:
        GptlabError: There can't be what `config` holds the texts to.
    """
    banned = [tokenizer.encode(text) for word in config.banned_words for text in (word, f" {word}")]
    copies: Counter[tuple[tuple[int, ...], ...]] = Counter()
    rows = []
    for prompt, source in zip(prompts, sources or repeat(()), strict=False):
        number = copies[tuple(source), tuple(prompt)]
        copies[tuple(source), tuple(prompt)] += 1
        rows.append(
            Row(
                prompt,
                config,
                source=source,
                seed=_seed_of_copy(config.seed, number),
                eos_id=tokenizer.eos_id if eos_id is None else eos_id,
                banned=banned,
                constraint=make_constraint(config, tokenizer, prompt=prompt, vocab_size=vocab_size),
                unknown_V=unknown_V,
            )
        )
    return rows


def _seed_of_copy(seed: int | None, number: int) -> int | str | None:
    """Of the first copy the seed itself; of others a text, since some numbers seed alike."""
    return seed if seed is None or number == 0 else f"{seed}, copy {number}"


class RowText:
    """The text of a row's tokens, as they come; a stop text ends the row.

    Args:
        row: With its prompt, and no more.
        tokenizer: Whose ids it has.
    """

    def __init__(self, row: Row, tokenizer: Tokenizer) -> None:
        self._row = row
        self._stream = TextStream(tokenizer, stop=row.config.stop, prompt=tuple(row.ids))

    def push(self, token: Token) -> str:
        """The text that is certain now that the row got `token`."""
        piece = self._stream.push(token.id)
        if self._stream.stopped:
            self._row.ending = "stop"
        return piece

    def finish(self) -> str:
        """What is left when the row has ended."""
        return self._stream.finish()
