"""One training of a BPE tokenizer by one library, in a process of its own: see bpe_training.py.

    python benchmarks/bpe_training_task.py '{"trainer": "rustbpe", "corpus": ..., ...}'

Prints how many seconds the training call took and how many merges it learned. Each library is
imported by the contender that needs it, before the clock starts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from corpora import GPT4_PATTERN, pieces
from measure import use_cores

SPECIAL_TOKENS = 4  # gptlab's vocab_size counts them
PIECE_CHARACTERS = 1 << 14  # about where both peers are at their fastest

# What is timed, and what then lists the merges in a form that two contenders share.
Contender = tuple[Callable[[], None], Callable[[], list[Any]]]


def gptlab(corpus: Path, vocab_size: int, cores: int, *, tie_break: str = "lowest") -> Contender:
    from gptlab import train_bpe

    trained = []

    def train() -> None:
        trained.append(
            train_bpe(
                [corpus],
                vocab_size=vocab_size,
                pattern="gpt4",
                tie_break=tie_break,
                processes=cores,
            )
        )

    def merges() -> list[Any]:
        (tokenizer,) = trained
        if tie_break == "lowest":
            return [(left + right).hex() for left, right in tokenizer.merges]
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            return json.loads(Path(folder, "tokenizer.json").read_text("utf-8"))["model"]["merges"]

    return train, merges


def rustbpe(corpus: Path, vocab_size: int, _: int) -> Contender:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()

    def train() -> None:
        tokenizer.train_from_iterator(
            pieces(corpus, characters=PIECE_CHARACTERS),
            vocab_size - SPECIAL_TOKENS,
            buffer_size=1024,  # as fast as its default of 8192, and takes less memory
            pattern=GPT4_PATTERN,
        )

    def merges() -> list[Any]:
        # It tells the bytes of a merge alone. They say which pair it was: the two parts that the
        # merges before it leave of them.
        ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])
        return [bytes(token).hex() for token, _ in ranks[256:]]

    return train, merges


def huggingface(corpus: Path, vocab_size: int, _: int) -> Contender:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def train() -> None:
        texts = pieces(corpus, characters=PIECE_CHARACTERS)
        tokenizer.train_from_iterator(texts, trainer)

    return train, lambda: json.loads(tokenizer.to_str())["model"]["merges"]


TRAINERS = {
    "gptlab": gptlab,
    "rustbpe": rustbpe,
    "tokenizers": huggingface,
    "gptlab, ties as tokenizers": partial(gptlab, tie_break="huggingface"),
}


def train_once(
    trainer: str, corpus: str, vocab_size: int, cores: int, merges_file: str | None = None
) -> dict[str, Any]:
    use_cores(cores)
    train, learned = TRAINERS[trainer](Path(corpus), vocab_size, cores)
    start = time.perf_counter()
    train()
    seconds = time.perf_counter() - start
    merges = learned()
    if merges_file:
        Path(merges_file).write_text(json.dumps(merges))
    return {"seconds": seconds, "merges": len(merges)}


if __name__ == "__main__":
    print(json.dumps(train_once(**json.loads(sys.argv[1]))))
