"""Generate in every mode with models of random shapes, and count what differs.

    python benchmarks/generation_equality.py [--models 200]

Each model is of random parts: positions, grouped keys, QK norm, a window, a soft cap, tied or not,
norm, activation; in fp32, with weights so large that its tokens depend on what it has read. Told
are the logits that were compared and the largest difference in units of the largest logit, and the
tokens that were compared and how many differ. Writes results/generation_equality-cpu.json.
"""

import argparse
import random
from typing import Any

import torch
from measure import available_cores, machine
from report import publish
from torch import Tensor

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.generation import LookupDrafter
from gptlab.generation.engine import continue_rows
from gptlab.generation.rows import Row
from gptlab.generation.speculative import Speculator
from gptlab.model import GPT, KVCache, quantize

VOCAB, SEQ_LEN = 53, 24


def random_model(chance: random.Random) -> GPT:
    heads = chance.choice([2, 4])
    config = ModelConfig(
        vocab_size=VOCAB,
        seq_len=SEQ_LEN,
        embed_dim=32,
        num_layers=chance.choice([1, 2, 3]),
        n_heads=heads,
        n_kv_heads=chance.choice([1, 2, heads]),
        positions=chance.choice(["rope", "learned", "sinusoidal", "none"]),
        norm=chance.choice(["layernorm", "rmsnorm"]),
        activation=chance.choice(["gelu", "swiglu", "relu2"]),
        bias=chance.random() < 0.5,
        qk_norm=chance.random() < 0.5,
        tie_embeddings=chance.random() < 0.5,
        window=chance.choice([None, 1, 4, 9]),
        logit_soft_cap=chance.choice([None, 10.0]),
    )
    model = GPT(config, seed=chance.randrange(2**31)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


class Counts:
    """What was compared of each claim."""

    def __init__(self) -> None:
        self.logits: dict[str, tuple[int, float]] = {}
        self.tokens: dict[str, tuple[int, int]] = {}

    def compare_logits(self, claim: str, found: Tensor, expected: Tensor) -> None:
        """Count logits, and note how far they are apart."""
        number, worst = self.logits.get(claim, (0, 0.0))
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        self.logits[claim] = (number + expected.numel(), max(worst, difference))

    def compare_tokens(self, claim: str, found: list[Row], expected: list[Row]) -> None:
        """Count tokens, and those that differ."""
        number, differing = self.tokens.get(claim, (0, 0))
        for row, alone in zip(found, expected, strict=True):
            pairs = list(zip(row.new_ids, alone.new_ids, strict=False))
            number += max(len(row.new_ids), len(alone.new_ids))
            differing += sum(a != b for a, b in pairs) + abs(row.new - alone.new)
        self.tokens[claim] = (number, differing)


@torch.no_grad()
def compare_caches(model: GPT, chance: random.Random, counts: Counts) -> None:
    tokens = torch.tensor([[chance.randrange(VOCAB) for _ in range(SEQ_LEN)] for _ in range(3)])
    whole = model(tokens)
    for claim, sizes in (
        ("token by token", [1] * SEQ_LEN),
        ("in chunks", random_sizes(chance)),
    ):
        cache = KVCache(model.config, batch_size=3)
        parts = [model(part, cache=cache) for part in tokens.split(sizes, dim=1)]
        counts.compare_logits(f"cached {claim} = at once", torch.cat(parts, dim=1), whole)


def random_sizes(chance: random.Random) -> list[int]:
    sizes: list[int] = []
    while (left := SEQ_LEN - sum(sizes)) > 0:
        sizes.append(chance.randint(1, left))
    return sizes


def compare_texts(model: GPT, chance: random.Random, counts: Counts) -> None:
    def rows() -> list[Row]:
        return [Row(prompt, config, seed=seed, eos_id=0) for seed, (prompt, config) in wanted]

    lengths = [chance.randint(1, 20) for _ in range(5)]
    prompts = [[chance.randrange(VOCAB) for _ in range(length)] for length in lengths]
    wanted = list(enumerate([(prompt, random_sampling(chance)) for prompt in prompts]))
    alone = rows()
    for row in alone:
        finish(continue_rows(model, [row]))
    batch, backward, drafted = rows(), rows(), rows()
    finish(continue_rows(model, batch))
    finish(continue_rows(model, backward[::-1]))
    finish(Speculator(model, LookupDrafter(length=2)).continue_rows(drafted))
    counts.compare_tokens("a row of a batch = the row alone", batch, alone)
    counts.compare_tokens("a row of the batch in another order = the row alone", backward, alone)
    counts.compare_tokens("with prompt lookup = without", drafted, alone)


def random_sampling(chance: random.Random) -> SamplingConfig:
    return SamplingConfig(
        max_new_tokens=chance.randint(5, 40),
        temperature=chance.choice([0, 0.8, 1.5]),
        top_k=chance.choice([None, 10]),
        top_p=chance.choice([None, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.3]),
    )


def finish(tokens: Any) -> None:
    for _ in tokens:
        pass


@torch.no_grad()
def compare_quantized(model: GPT, chance: random.Random, counts: Counts) -> None:
    tokens = torch.tensor([[chance.randrange(VOCAB) for _ in range(SEQ_LEN)]])
    small = quantize(model, bits=8)
    cache = KVCache(model.config, batch_size=1)
    parts = [small(part, cache=cache) for part in tokens.split(1, dim=1)]
    counts.compare_logits(
        "int8: cached token by token = at once", torch.cat(parts, 1), small(tokens)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = Counts()
    for number in range(options.models):
        chance = random.Random(number)
        model = random_model(chance)
        compare_caches(model, chance, counts)
        compare_texts(model, chance, counts)
        compare_quantized(model, chance, counts)
    publish(
        "generation_equality-cpu",
        {
            "benchmark": "generation_equality",
            "machine": machine(["torch"], cores=available_cores()),
            "models": options.models,
            "logits": {
                claim: {"compared": number, "largest_difference": worst}
                for claim, (number, worst) in counts.logits.items()
            },
            "tokens": {
                claim: {"compared": number, "differing": differing}
                for claim, (number, differing) in counts.tokens.items()
            },
        },
    )


if __name__ == "__main__":
    main()
