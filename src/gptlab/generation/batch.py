"""Rows that are continued together, one token each at a time; they may come and leave at any time.

    admit    read the prompts of new rows, one that comes twice once
    draw     a token for each row
    advance  let ended rows go, and read those tokens

Letters: B rows, T prompt length, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.errors import ConfigError, GptlabError
from gptlab.generation.rows import Row, Token
from gptlab.generation.sampling import choose
from gptlab.generation.steps import Steps, prefill
from gptlab.model import GPT


class Batch:
    """Rows in flight over one cache.

    Args:
        model: In evaluation mode.
        slots: Most rows at a time.
        capacity: Tokens of the longest row that there is room for, at most the model's seq_len.
        steps: How single tokens are read; eagerly if not given.
    """

    def __init__(
        self, model: GPT, *, slots: int, capacity: int, steps: Steps | None = None
    ) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._steps = steps or Steps(model)
        self._cache = self._steps.take_cache(slots, capacity)
        self._logits_BV = torch.empty(0, model.config.vocab_size, device=self._cache.device)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, for all slots."""
        return self._cache.nbytes

    def close(self) -> None:
        """Leave the cache to others; the batch is of no use any more."""
        self._steps.give_back(self._cache)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows; there must be slots for them.

        Raises:
            ConfigError: A prompt can't be read.
        """
        for row in rows:
            check_row(self._model, row)
        first = len(self.rows)
        slots: dict[tuple[int, ...], int] = {}
        originals: list[Row] = []
        copies: list[Row] = []
        for row in rows:
            prompt = self._context(row)
            (copies if prompt in slots else originals).append(row)
            slots.setdefault(prompt, first + len(slots))
        part = self._cache.rows(first, first + len(slots))
        for slot in range(len(slots)):
            part.shorten(slot, 0)
        logits_BV = prefill(self._model, list(slots), part).float()
        for slot, row in enumerate(copies, start=first + len(slots)):
            self._cache.copy_row(slots[self._context(row)], slot)
        sources = [slots[self._context(row)] - first for row in (*originals, *copies)]
        self.rows += originals + copies
        self._logits_BV = torch.cat((self._logits_BV, logits_BV[sources]))

    @torch.inference_mode()
    def draw(self) -> list[tuple[Row, Token]]:
        """A token for each row; ends of texts are not among them, nor rows that get an `error`."""
        drawn: list[tuple[Row, Token]] = []
        for places in self._alike():
            rows = [self.rows[place] for place in places]
            whole = len(places) == len(self.rows)
            logits_BV = self._logits_BV if whole else self._logits_BV[places]
            ids = _choose(rows, logits_BV)
            reports = _reports(logits_BV, ids, rows[0].config.top_logprobs)
            for place, row, token in zip(places, rows, reports, strict=True):
                if row.error is None and _is_shown(row, token):
                    drawn.append((row, token))
                if row.error is not None:
                    self._cache.erase(place)
        return drawn

    @torch.inference_mode()
    def advance(self) -> None:
        """Let ended rows go, and read what was drawn for the others."""
        place = 0
        while place < len(self.rows):
            if not self.rows[place].is_over:
                place += 1
                continue
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last
                self._cache.copy_row(len(self.rows), place)
        if not self.rows:
            self._logits_BV = self._logits_BV[:0]
            return
        for slot, row in enumerate(self.rows):
            if self._cache.lengths[slot] == self._model.config.seq_len:
                self._make_room(slot, row)
        tokens = [row.ids[-1] for row in self.rows]
        self._logits_BV = self._steps.decode(tokens, self._cache.rows(0, len(tokens))).float()

    def _context(self, row: Row) -> tuple[int, ...]:
        return tuple(row.ids[-self._model.config.seq_len :])

    def _alike(self) -> Iterator[list[int]]:
        """The places of rows that have the same settings and bans."""
        left = list(range(len(self.rows)))
        while left:
            first = self.rows[left[0]]
            same = [place for place in left if self.rows[place].is_drawn_like(first)]
            yield same
            left = [place for place in left if place not in same]

    def _make_room(self, slot: int, row: Row) -> None:
        """Keep the newer half of a full row, whose last token is left to `decode`."""
        config = self._model.config
        half = max(1, config.seq_len // 2)
        if row.config.overflow == "truncate":
            theta = config.rope_theta if config.positions == "rope" else None
            self._cache.drop_oldest(slot, config.seq_len - half + 1, rope_theta=theta)
            return
        self._cache.shorten(slot, 0)
        if context := row.ids[-half:-1]:
            prefill(self._model, [context], self._cache.rows(slot, slot + 1))


def check_row(model: GPT, row: Row) -> None:
    """See that a row can be continued.

    Raises:
        ConfigError: Its prompt has no token, has unknown ones, or would overflow and may not.
    """
    config, end = model.config, len(row.ids) + row.config.max_new_tokens
    if not row.ids:
        raise ConfigError("the prompt has no tokens; give it some text")
    if max(row.ids) >= config.vocab_size or min(row.ids) < 0:
        raise ConfigError(
            f"a prompt has ids outside the model's vocabulary of {config.vocab_size}; "
            "use the model's own tokenizer"
        )
    if end <= config.seq_len:
        return
    if row.config.overflow == "error":
        raise ConfigError(
            f"{len(row.ids)} prompt tokens and {row.config.max_new_tokens} new ones exceed the "
            f"model's seq_len of {config.seq_len}; ask for fewer, or let the context slide"
        )
    if row.config.overflow == "truncate" and config.positions not in ("rope", "none"):
        raise ConfigError(
            f"overflow is 'truncate', but the model's positions are {config.positions}, which "
            "can't move in a cache; write overflow 'slide'"
        )


def _choose(rows: Sequence[Row], logits_BV: Tensor) -> list[int]:
    """An id for each row, within its constraint; -1 for one that gets an error."""
    ids = _choose_allowed(rows, logits_BV, [row.uniform() for row in rows])
    for place, row in enumerate(rows):
        if row.error is not None or row.constraint is None:
            continue
        # Drawing again without what was refused is drawing from what is permitted.
        if not row.constraint.permits(ids[place]):
            left_BV = logits_BV[place : place + 1].clone()
            left_BV[0, ids[place]] = -math.inf
            ids[place] = _choose([row], left_BV)[0]
    return ids


def _choose_allowed(rows: Sequence[Row], logits_BV: Tensor, uniforms: Sequence[float]) -> list[int]:
    """An id for each row, among those that its constraint knows to be allowed."""
    config, allowed_BV = rows[0].config, None
    try:
        if any(row.constraint for row in rows):
            everything_V = torch.ones(logits_BV.shape[1], dtype=torch.bool)
            allowed_BV = torch.stack(
                [row.constraint.allowed() if row.constraint else everything_V for row in rows]
            )
        return choose(
            logits_BV,
            config,
            torch.tensor(uniforms, dtype=torch.float64),
            contexts=[row.ids for row in rows],
            new=[row.new for row in rows],
            banned=rows[0].banned,
            allowed_BV=allowed_BV,
        ).tolist()
    except GptlabError as error:
        if len(rows) == 1:
            rows[0].error = error
            return [-1]
    # Whichever of them it is, the others go on.
    return [
        _choose_allowed([row], logits_BV[place : place + 1], [uniforms[place]])[0]
        for place, row in enumerate(rows)
    ]


def _is_shown(row: Row, token: Token) -> bool:
    """Give a row its token; whether it is one to show, and no end of text or error."""
    try:
        return row.take(token.id)
    except GptlabError as error:
        row.error = error
        return False


def _reports(logits_BV: Tensor, ids: Sequence[int], top: int | None) -> list[Token]:
    if top is None:
        return [Token(token) for token in ids]
    logprobs_BV = logits_BV.log_softmax(dim=-1)
    likeliest = logprobs_BV.topk(min(top, logits_BV.shape[1]), dim=-1)
    ids_B1 = torch.tensor(ids, device=logits_BV.device).clamp(min=0).unsqueeze(1)
    own = logprobs_BV.gather(1, ids_B1).squeeze(1).tolist()
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return [
        Token(token, logprob, tuple(zip(*pair, strict=True)))
        for token, logprob, pair in zip(ids, own, pairs, strict=True)
    ]
