"""Speculative decoding: a drafter proposes tokens, and the model checks them in one pass.

Leviathan et al. 2023, https://arxiv.org/abs/2211.17192; Chen et al. 2023,
https://arxiv.org/abs/2302.01318. The text is distributed as without it.

Letters: T tokens of a pass, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.errors import ConfigError
from gptlab.generation.batch import check_row, make_room
from gptlab.generation.compiling import Compiler
from gptlab.generation.drafts import Drafter, Proposal
from gptlab.generation.draws import choose_tokens, report_tokens
from gptlab.generation.rows import Row, Token
from gptlab.generation.sampling import draw, probabilities, process
from gptlab.generation.steps import prefill
from gptlab.model import GPT, KVCache


@dataclass(frozen=True)
class Acceptance:
    """How well a drafter has guessed."""

    proposed: int
    """Tokens that it proposed."""
    accepted: int
    """Those that the texts got."""
    tokens: int
    """All tokens that the texts got, ends of texts included."""
    passes: int
    """Passes of the model, one for each prompt included."""

    def __str__(self) -> str:
        """One line that says it."""
        share = self.accepted / max(1, self.proposed)
        return (
            f"draft: {self.accepted} of {self.proposed} proposed tokens accepted ({share:.0%}), "
            f"{self.tokens / max(1, self.passes):.2f} tokens a pass"
        )


class Speculator:
    """Continues rows with a model and a drafter, one row after the other.

    Args:
        model: In evaluation mode.
        drafter: What proposes.
        length: Tokens to propose at a time.
        compiler: Whether single tokens are read by compiled code, where nothing is proposed; they
            are not if not given.

    Raises:
        ConfigError: The drafter's vocabulary is another one, or the length is not positive.
    """

    def __init__(
        self, model: GPT, drafter: Drafter, *, length: int = 4, compiler: Compiler | None = None
    ) -> None:
        known, vocab_size = drafter.vocab_size, model.config.vocab_size
        if known is not None and known != vocab_size:
            raise ConfigError(
                f"the draft model's vocab_size is {known}, but the model's is {vocab_size}; "
                "choose a draft model of the same tokenizer"
            )
        if length < 1:
            raise ConfigError(f"draft_length is {length}; choose 1 or more")
        self._model = model
        self._drafter = drafter
        self._length = length
        self._compiler = compiler or Compiler(model)
        self._steps = self._compiler.steps(0)
        self._proposed = self._accepted = self._tokens = self._passes = 0

    @property
    def acceptance(self) -> Acceptance:
        """How well the drafter has guessed, in all rows so far."""
        return Acceptance(self._proposed, self._accepted, self._tokens, self._passes)

    def continue_rows(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Token]]:
        """Draw tokens until each row has ended, yielding them as they come.

        All is as in `engine.continue_rows`, except that one row ends before the next begins. A
        constraint is asked token by token, and never about more than the row has got.

        Raises:
            ConfigError: A prompt has no token or unknown ones, or would overflow and may not.
            GenerationError: The model's numbers are not finite, or nothing is left to draw.
        """
        for row in rows:
            check_row(self._model, row)
        for row in rows:
            if row.ending is None:
                yield from self._continue(row)

    def _continue(self, row: Row) -> Iterator[tuple[Row, Token]]:
        new = row.config.max_new_tokens
        self._steps = self._compiler.steps(new)
        room = min(self._model.config.seq_len, len(row.ids) + new)
        cache = self._steps.take_cache(1, room)
        try:
            yield from self._rounds(row, cache)
        finally:
            self._steps.give_back(cache)

    def _rounds(self, row: Row, cache: KVCache) -> Iterator[tuple[Row, Token]]:
        """Propose, check, and draw, until the row has ended."""
        proposals, logits_TV = self._read_prompt(row, cache)
        while True:
            right = 0
            # One more token than was proposed: the pass has said what follows the last one.
            for place, proposal in enumerate((*proposals, None)):
                token = self._draw(row, logits_TV[place : place + 1], proposal)
                is_right = proposal is not None and token.id == proposal.id
                right += is_right
                self._tokens += 1
                self._accepted += is_right
                if row.take(token.id):
                    yield row, token
                if row.ending is not None:
                    return
                if not is_right:
                    break
            cache.shorten(0, cache.lengths[0] - len(proposals) + right)
            proposals, logits_TV = self._advance(row, cache)

    @torch.inference_mode()
    def _read_prompt(self, row: Row, cache: KVCache) -> tuple[Sequence[Proposal], Tensor]:
        """No proposals, and logits (1, V) of what follows the prompt."""
        self._passes += 1
        prompt = row.ids[-self._model.config.seq_len :]
        return (), prefill(self._model, [prompt], cache).float()

    @torch.inference_mode()
    def _advance(self, row: Row, cache: KVCache) -> tuple[Sequence[Proposal], Tensor]:
        """Read the row's last token, and what is proposed behind it.

        Returns:
            The proposals, and logits (T, V) of what follows the last token and each of them.
        """
        seq_len = self._model.config.seq_len
        if cache.lengths[0] == seq_len:
            make_room(self._model, cache, slot=0, row=row)
        # Beyond the context the text goes on with another one, and its last token is not proposed:
        # the pass that checks the one before gives it anyway.
        most = min(
            self._length,
            seq_len - cache.lengths[0] - 1,
            row.config.max_new_tokens - row.new - 1,
        )
        proposals = self._drafter.propose(row, most)[:most] if most > 0 else ()
        self._passes += 1
        self._proposed += len(proposals)
        if not proposals:
            return proposals, self._steps.decode(row.ids[-1:], cache).float()
        ids = [row.ids[-1], *(proposal.id for proposal in proposals)]
        logits_1TV: Tensor = self._model(torch.tensor([ids], device=cache.device), cache=cache)
        return proposals, logits_1TV[0].float()

    @torch.inference_mode()
    def _draw(self, row: Row, logits_1V: Tensor, proposal: Proposal | None) -> Token:
        """The row's next token, and what its settings ask to be told of it."""
        token = -1
        if proposal is not None and proposal.probabilities_V is not None:
            token = _judged(row, logits_1V, proposal.id, proposal.probabilities_V)
        if token < 0:
            # This is also how a certain proposal is judged: it is accepted with its probability,
            # and nothing remains of it otherwise. So the text is that of plain decoding.
            (token,) = choose_tokens([row], logits_1V)
        if row.error is not None:
            raise row.error
        return report_tokens(row, logits_1V, [token])[0]


def _judged(row: Row, logits_1V: Tensor, token: int, drawn_V: Tensor) -> int:
    """A token that is distributed as the row's next one.

    Args:
        row: What it is for.
        logits_1V: The model's.
        token: What was proposed.
        drawn_V: The probabilities by which it was.

    Returns:
        The token; -1 if rounding has left nothing to draw from, or numbers are broken.
    """
    mask_V = None if row.constraint is None else row.constraint.allowed()
    processed_1V = process(
        logits_1V,
        row.config,
        contexts=[row.ids],
        new=[row.new],
        banned=row.banned,
        allowed_BV=None if mask_V is None else mask_V.unsqueeze(0),
        unknown_V=row.unknown_V,
    )
    wanted_V = probabilities(processed_1V, row.config)[0]
    token = accept_or_redraw(token, drawn_V.to(wanted_V.device), wanted_V, row)
    if token < 0 or row.constraint is None or row.constraint.permits(token):
        return token
    left_1V = logits_1V.clone()
    left_1V[0, token] = -math.inf
    return choose_tokens([row], left_1V)[0]


def accept_or_redraw(token: int, drawn_V: Tensor, wanted_V: Tensor, row: Row) -> int:
    """A token that was drawn by the probabilities q, made one that is drawn by p.

    It is accepted with probability min(1, p / q). Otherwise another is drawn, by what p has more
    than q: max(p - q, 0), which is what accepting leaves out. Leviathan et al. 2023, theorem 1.

    Args:
        token: What was drawn.
        drawn_V: q, (V,).
        wanted_V: p, (V,).
        row: Whose randomness decides.

    Returns:
        The token; -1 if it is not accepted, but p is nowhere more than q.
    """
    if row.uniform() * drawn_V[token].item() < wanted_V[token].item():
        return token
    lacking_1V = (wanted_V - drawn_V).clamp(min=0).unsqueeze(0)
    return int(draw(lacking_1V, torch.tensor([row.uniform()], dtype=torch.float64)))
