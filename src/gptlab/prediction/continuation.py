"""How texts go on, by a language model, held against how they do.

Letters: B batch, T length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gptlab.config import SamplingConfig
from gptlab.generation import Generator
from gptlab.generation.stream import TextStream
from gptlab.model import Network
from gptlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Continuation:
    """How a prompt goes on."""

    prompt: str
    continuation: str
    """What the model makes of it."""
    truth: str | None = None
    """As many tokens of the text behind the prompt; None where the text has none."""
    share_right: float | None = None
    """Of these tokens those that the model finds the likeliest, each after the true ones before
    it; None where the text has none, or the model can't read so far."""


def continue_texts(
    model: Network,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    config: SamplingConfig,
    batch_size: int = 32,
    *,
    prompt_length: int | None = None,
) -> list[Continuation]:
    """The continuation of each of `texts`, or of its beginning.

    Args:
        model: A language model.
        tokenizer: Its own.
        texts: An empty one goes on from the token that ends a document.
        config: How to draw, and how many tokens.
        batch_size: Texts to go on with at once.
        prompt_length: Tokens of each text that are its prompt; all if None.
    """
    generator = Generator(model, tokenizer)
    found = []
    for first in range(0, len(texts), batch_size):
        rows = [generator.encode_prompt(text) for text in texts[first : first + batch_size]]
        prompts = [row[:prompt_length] for row in rows]
        ends = [len(prompt) + config.max_new_tokens for prompt in prompts]
        rows = [row[:end] for row, end in zip(rows, ends, strict=True)]
        new = generator.generate_ids(prompts, config)
        shares = _shares_right(model, rows, prompts)
        for row, prompt, ids, share in zip(rows, prompts, new, shares, strict=True):
            rest = row[len(prompt) :]
            found.append(
                Continuation(
                    prompt=tokenizer.decode(prompt),
                    continuation=_text_after(tokenizer, prompt, ids),
                    truth=_text_after(tokenizer, prompt, rest) if rest else None,
                    share_right=share,
                )
            )
    return found


@torch.no_grad()
def _shares_right(
    model: Network, rows: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]
) -> list[float | None]:
    length = min(max(map(len, rows)), model.config.seq_len)
    tokens_BT = torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens_BT[number, : len(row)] = torch.tensor(row[:length])
    if all(len(row) == len(prompt) for row, prompt in zip(rows, prompts, strict=True)):
        return [None] * len(rows)
    likeliest_BT = model(tokens_BT.to(model.device)).argmax(dim=-1).cpu()
    shares: list[float | None] = []
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        targets = torch.tensor(row[len(prompt) : length + 1])
        guesses = likeliest_BT[number, len(prompt) - 1 :][: len(targets)]
        shares.append((guesses == targets).float().mean().item() if len(targets) else None)
    return shares


def _text_after(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    stream = TextStream(tokenizer, prompt=prompt)
    return "".join(map(stream.push, ids)) + stream.finish()
