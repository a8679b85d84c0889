"""Tokens from a model, with a cache: each row of a batch as if it were alone.

Letters: B batch, T prompt length, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.sampling import choose
from gptlab.model import GPT, KVCache


class Row:
    """One sequence being continued.

    Args:
        prompt: Its ids so far, at least one.
        generator: Draws its tokens, and no other row's.
    """

    def __init__(self, prompt: Sequence[int], generator: torch.Generator) -> None:
        self.ids = list(prompt)
        self.prompt_length = len(prompt)
        self.generator = generator
        self.done = False
        """Whoever reads the tokens may set it."""


def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
    """Read whole prompts into an empty cache; logits (B, V) of what follows each."""
    counts = [len(prompt) for prompt in prompts]
    tokens = torch.zeros(len(prompts), max(counts), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    hidden_BTD = model.hidden_states(tokens.to(cache.device), cache=cache, counts=counts)
    last = torch.tensor(counts, device=cache.device) - 1
    return model.logits(hidden_BTD[torch.arange(len(prompts), device=cache.device), last])


def decode(model: GPT, tokens: Sequence[int], cache: KVCache) -> Tensor:
    """Read one more token a row; logits (B, V) of what follows it."""
    column = torch.tensor(tokens, device=cache.device).unsqueeze(1)
    logits_BV: Tensor = model(column, cache=cache)[:, 0]
    return logits_BV


@torch.inference_mode()
def continue_rows(
    model: GPT, rows: Sequence[Row], config: SamplingConfig, *, eos_id: int | None
) -> Iterator[tuple[int, int]]:
    """Draw tokens for all rows, yielding (row index, token id) as they come.

    An end-of-sequence token ends its row and is not yielded, unless `ignore_eos`. A row that
    fills the model's seq_len goes on with the newer half of its context, or raises, as
    `config.overflow` says.

    Raises:
        ConfigError: A prompt has no token, or would overflow and may not.
    """
    _check(model, rows, config)
    seq_len = model.config.seq_len
    longest = max(len(row.ids) for row in rows)
    cache = KVCache(
        model.config,
        batch_size=len(rows),
        capacity=min(seq_len, longest + config.max_new_tokens),
        device=model.embedding.weight.device,
        dtype=_dtype(model),
    )
    logits_BV = prefill(model, [row.ids[-seq_len:] for row in rows], cache)
    for number in range(config.max_new_tokens):
        for index, row in enumerate(rows):
            if row.done:
                continue
            uniform = torch.rand(1, dtype=torch.float64, generator=row.generator)
            token = int(
                choose(
                    logits_BV[index : index + 1],
                    config,
                    uniform,
                    contexts=[row.ids],
                    new=[len(row.ids) - row.prompt_length],
                )
            )
            row.ids.append(token)
            row.done = token == eos_id and not config.ignore_eos
            if not row.done:
                yield index, token
        if number + 1 == config.max_new_tokens or all(row.done for row in rows):
            return
        for index, row in enumerate(rows):
            if cache.lengths[index] < seq_len:
                continue
            if row.done:
                cache.forget(index)
            else:
                _slide(model, row, index, cache)
        # Rows that are done are read on, so that even rows stay even and need no mask.
        logits_BV = decode(model, [row.ids[-1] for row in rows], cache)


def _dtype(model: GPT) -> torch.dtype:
    """The type of the keys and values that the model makes."""
    device = model.embedding.weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return model.embedding.weight.dtype


def _check(model: GPT, rows: Sequence[Row], config: SamplingConfig) -> None:
    for row in rows:
        end = len(row.ids) + config.max_new_tokens
        if not row.ids:
            raise ConfigError("the prompt has no tokens; give it some text")
        if max(row.ids) >= model.config.vocab_size or min(row.ids) < 0:
            raise ConfigError(
                f"a prompt has ids outside the model's vocabulary of {model.config.vocab_size}; "
                "use the model's own tokenizer"
            )
        if config.overflow == "error" and end > model.config.seq_len:
            raise ConfigError(
                f"{len(row.ids)} prompt tokens and {config.max_new_tokens} new ones exceed the "
                f"model's seq_len of {model.config.seq_len}; ask for fewer, or let the context "
                "slide"
            )


def _slide(model: GPT, row: Row, index: int, cache: KVCache) -> None:
    """Read the newer half of a full row's context anew; its last token is left to `decode`."""
    half = max(1, model.config.seq_len // 2)
    view = cache.rows(index, index + 1)
    if context := row.ids[-half:-1]:
        prefill(model, [context], view)
    cache.take_lengths(view)
