"""Rows that are continued together, one token each at a time; they may come and leave at any time.

    admit    read the prompts of new rows, one that comes twice once
    draw     a token for each row
    advance  let ended rows go, and read those tokens

Letters: B rows, T prompt length, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch

from gptlab.errors import ConfigError, GptlabError
from gptlab.generation.draws import choose_tokens, report_tokens
from gptlab.generation.rows import Reading, Row, Token
from gptlab.generation.steps import Steps, prefill, read_sources, reader_of
from gptlab.model import GPT, KVCache, Network, Transformer
from gptlab.model.positions import rotary_frequencies


class Batch:
    """Rows in flight over one cache.

    Args:
        model: In evaluation mode.
        slots: Most rows at a time.
        capacity: Tokens of the longest row that there is room for, at most the model's seq_len.
        source_capacity: Tokens of the longest source, for a model with an encoder.
        steps: How single tokens are read; eagerly if not given.
    """

    def __init__(
        self,
        model: Network,
        *,
        slots: int,
        capacity: int,
        source_capacity: int = 0,
        steps: Steps | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self._transformer = model if isinstance(model, Transformer) else None
        self._model = reader_of(model)
        self._steps = steps or Steps(self._model)
        self._cache = self._steps.take_cache(slots, capacity, memory_capacity=source_capacity)
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
        if not rows:
            return
        for row in rows:
            check_row(self._transformer or self._model, row)
        first = len(self.rows)
        slots: dict[Reading, int] = {}
        originals: list[Row] = []
        copies: list[Row] = []
        for row in rows:
            reading = self._reading(row)
            (copies if reading in slots else originals).append(row)
            slots.setdefault(reading, first + len(slots))
        part = self._cache.rows(first, first + len(slots))
        for slot in range(len(slots)):
            part.shorten(slot, 0)
        if self._transformer is not None:
            read_sources(self._transformer, [reading.source for reading in slots], part)
        logits_BV = prefill(self._model, [reading.context for reading in slots], part).float()
        for slot, row in enumerate(copies, start=first + len(slots)):
            self._cache.copy_row(slots[self._reading(row)], slot)
        origins = [slots[self._reading(row)] - first for row in (*originals, *copies)]
        self.rows += originals + copies
        self._logits_BV = torch.cat((self._logits_BV, logits_BV[origins]))

    @torch.inference_mode()
    def draw(self) -> list[tuple[Row, Token]]:
        """A token for each row; ends of texts are not among them, nor rows that get an `error`."""
        drawn: list[tuple[Row, Token]] = []
        for places in self._alike():
            rows = [self.rows[place] for place in places]
            whole = len(places) == len(self.rows)
            logits_BV = self._logits_BV if whole else self._logits_BV[places]
            ids = choose_tokens(rows, logits_BV)
            reports = report_tokens(rows[0], logits_BV, ids)
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
                make_room(self._model, self._cache, slot=slot, row=row)
        tokens = [row.ids[-1] for row in self.rows]
        self._logits_BV = self._steps.decode(tokens, self._cache.rows(0, len(tokens))).float()

    def _reading(self, row: Row) -> Reading:
        return row.reading(self._model.config.seq_len)

    def _alike(self) -> Iterator[list[int]]:
        """The places of rows that have the same settings and bans."""
        left = list(range(len(self.rows)))
        while left:
            first = self.rows[left[0]]
            same = [place for place in left if self.rows[place].is_drawn_like(first)]
            yield same
            left = [place for place in left if place not in same]


def check_row(model: Network, row: Row) -> None:
    """See that a row can be continued.

    Raises:
        ConfigError: Its prompt or its source has no token, has unknown ones, or is too long.
    """
    config, end = model.config, len(row.ids) + row.config.max_new_tokens
    if isinstance(model, Transformer):
        check_source(model, row.source)
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


def check_source(model: Transformer, source: Sequence[int]) -> None:
    """See that an encoder can read a source.

    Raises:
        ConfigError: It has no token, has unknown ones, or is too long.
    """
    size, seq_len = model.config.source_size, model.config.seq_len
    if not source:
        raise ConfigError("the source has no tokens; give it some text")
    if max(source) >= size or min(source) < 0:
        raise ConfigError(
            f"a source has ids outside the model's vocabulary of {size}; use the model's own "
            "tokenizer"
        )
    if len(source) > seq_len:
        raise ConfigError(
            f"a source has {len(source)} tokens, but the model reads {seq_len} at most; give a "
            "shorter one"
        )


def make_room(model: GPT, cache: KVCache, *, slot: int, row: Row) -> None:
    """Keep the newer half of a full row, whose last token is still to be read."""
    config = model.config
    half = max(1, config.seq_len // 2)
    if row.config.overflow == "truncate":
        turns = rotary_frequencies(config) if config.positions == "rope" else None
        cache.drop_oldest(slot, config.seq_len - half + 1, turns=turns)
        return
    cache.shorten(slot, 0)
    if context := row.ids[-half:-1]:
        prefill(model, [context], cache.rows(slot, slot + 1))


def _is_shown(row: Row, token: Token) -> bool:
    """Give a row its token; whether it is one to show, and no end of text or error."""
    try:
        return row.take(token.id)
    except GptlabError as error:
        row.error = error
        return False
