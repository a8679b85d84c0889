"""Who proposes tokens that a model then checks, several in one pass.

Letters: V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.generation.compiling import Compile, Compiler
from gptlab.generation.rows import Row
from gptlab.generation.sampling import draw, greedy, probabilities, process
from gptlab.generation.steps import prefill
from gptlab.model import GPT


class Proposal(NamedTuple):
    """A token that may come next."""

    id: int
    probabilities_V: Tensor | None = None
    """The distribution that it was drawn from; None if it was certain."""


class Drafter(Protocol):
    """Proposes tokens. What it proposes changes how fast a text comes, and not which."""

    @property
    def vocab_size(self) -> int | None:
        """How many ids it knows; None if it proposes none but those of the text."""

    def propose(self, row: Row, count: int) -> Sequence[Proposal]:
        """What may follow `row.ids`, at most `count` tokens, at least 1; there may be none.

        A token's distribution may depend on those before it, and on the row's settings. Whatever
        is random in it comes from `row.uniform`.
        """


class ModelDrafter:
    """A smaller model, which draws by the settings of the row that it drafts for.

    It is told of no constraint, and reads the newer part of a text that is too long for it.

    Args:
        model: With the vocabulary of the model that checks; it is put in evaluation mode.
        compile: Whether it reads by compiled code, as of `Generator`.
    """

    def __init__(self, model: GPT, *, compile: Compile = "auto") -> None:
        self._model = model.eval()
        self._compiler = Compiler(model, compile=compile)
        self._steps = self._compiler.steps(0)
        self._cache = self._steps.take_cache(1, 0)
        self._row: Row | None = None
        self._start = 0
        self._held = 0
        self._guessed: list[int] = []

    @property
    def vocab_size(self) -> int:
        """How many ids it knows."""
        return self._model.config.vocab_size

    @torch.inference_mode()
    def propose(self, row: Row, count: int) -> list[Proposal]:
        """What the model makes follow, up to an end of the text."""
        seq_len = self._model.config.seq_len
        half = max(1, seq_len // 2)
        count = min(count, seq_len - half + 1)
        # By the row alone, and in steps of half the room: what it reads anew is seldom, and the
        # same whatever was drafted before. The last token is proposed without being read.
        excess = max(0, len(row.ids) + count - 1 - seq_len)
        logits_1V = self._catch_up(row, start=-(-excess // half) * half)
        proposals: list[Proposal] = []
        while proposal := _drawn(logits_1V, row, [earlier.id for earlier in proposals]):
            proposals.append(proposal)
            if len(proposals) == count or proposal.id == row.eos_id:
                break
            self._guessed.append(proposal.id)
            logits_1V = self._steps.decode([proposal.id], self._cache)
        return proposals

    def _catch_up(self, row: Row, *, start: int) -> Tensor:
        """Keep of the cache what has come true, and read the rest; logits (1, V) of what follows.

        Args:
            row: Its ids were seen before but for the last ones, if it is the row of last time.
            start: Where in it the part begins that is read.
        """
        if row is not self._row:
            tokens = row.config.max_new_tokens
            room = min(self._model.config.seq_len, len(row.ids) + tokens)
            self._steps.give_back(self._cache)
            self._steps = self._compiler.steps(tokens)
            self._cache = self._steps.take_cache(1, room)
        if row is not self._row or start != self._start:
            self._row, self._start, self._held, self._guessed = row, start, 0, []
        context = row.ids[start:]
        # One token at least is read, for the logits.
        kept, last = min(self._held, len(context) - 1), len(context) - 1
        for guess in self._guessed:
            if kept == last or guess != context[kept]:
                break
            kept += 1
        self._cache.shorten(0, kept)
        self._held, self._guessed = len(context), []
        if kept == last:
            return self._steps.decode(context[last:], self._cache)
        return prefill(self._model, [context[kept:]], self._cache)


class LookupDrafter:
    """Proposes what followed the last tokens where they came before, in prompt or text.

    Of the last `length` tokens, the longest end that occurred before counts, and of its
    occurrences the latest. A copy may run into itself, as in a text that repeats a line.
    Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.

    Args:
        length: Tokens to look for at most.

    Raises:
        ConfigError: The length is not positive.
    """

    vocab_size = None

    def __init__(self, *, length: int = 3) -> None:
        if length < 1:
            raise ConfigError(f"the length to look up is {length}; choose 1 or more")
        self._length = length
        self._row: Row | None = None
        self._seen = 0
        self._next: dict[tuple[int, ...], int] = {}

    def propose(self, row: Row, count: int) -> list[Proposal]:
        """What followed, up to an end of the text."""
        if row is not self._row:
            self._row, self._seen, self._next = row, 0, {}
        ids, end = row.ids, len(row.ids)
        # What ends the text has nothing behind it yet.
        for place in range(self._seen + 1, end):
            for length in range(1, min(self._length, place) + 1):
                self._next[tuple(ids[place - length : place])] = place
        self._seen = max(self._seen, end - 1)
        for length in range(min(self._length, end), 0, -1):
            if (found := self._next.get(tuple(ids[end - length :]))) is not None:
                copied = [ids[found + index % (end - found)] for index in range(count)]
                if row.eos_id in copied:
                    copied = copied[: copied.index(row.eos_id) + 1]
                return [Proposal(token) for token in copied]
        return []


def _drawn(logits_1V: Tensor, row: Row, guessed: Sequence[int]) -> Proposal | None:
    """What a row of these logits gets behind `guessed`; None where there is nothing to draw."""
    processed_1V = process(
        logits_1V.float(),
        row.config,
        contexts=[[*row.ids, *guessed]],
        new=[row.new + len(guessed)],
        banned=row.banned,
        unknown_V=row.unknown_V,
    )
    if row.config.temperature == 0:
        token = int(greedy(processed_1V))
        return Proposal(token) if token >= 0 else None
    probabilities_1V = probabilities(processed_1V, row.config)
    token = int(draw(probabilities_1V, torch.tensor([row.uniform()], dtype=torch.float64)))
    return Proposal(token, probabilities_1V[0]) if token >= 0 else None
