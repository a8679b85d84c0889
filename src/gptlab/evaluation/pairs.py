"""How good a Transformer is on pairs: how it predicts their targets, and which it writes.

Letters: R pairs.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.config import LossConfig
from gptlab.corpus.pairs import Pair, PairFields, read_pairs
from gptlab.data.pairs import PairDataset
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.inspected import Inspected, settings_of
from gptlab.generation import Generator
from gptlab.model import Network
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.pair import source_of
from gptlab.training.loader import DeviceBatch
from gptlab.training.pair_evaluation import row_scores
from gptlab.training.pair_inputs import held_out_pairs
from gptlab.training.pair_objective import PairObjective
from gptlab.training.precision import Arithmetic
from gptlab.training.translations import TextScores, has_sacrebleu, score_texts, write_targets

# Tokens whose logits are held at once.
_CHUNK = 1024


@dataclass(frozen=True)
class PairScores:
    """A model's predictions of targets. Errors are over pairs, and NaN where there is one."""

    loss: float
    """Mean -log p of the targets' tokens, each after the true ones, in nats."""
    loss_error: float
    """Its standard error."""
    perplexity: float
    token_accuracy: float
    """Share of the tokens that are the likeliest, each after the true ones."""
    token_accuracy_error: float
    """Its standard error."""
    sequence_accuracy: float
    """Share of the targets of which all tokens are."""
    sequence_accuracy_error: float
    """Its standard error."""
    tokens: int
    """Of the targets, their ends included."""
    pairs: int
    left_out: int
    """Pairs that are too long for the model."""
    pairs_per_second: float
    """That were read."""


@dataclass(frozen=True)
class WrittenScores:
    """Targets that a model wrote, beside those that were expected."""

    targets: int
    exact: float
    """Share of those that are as expected, to the character."""
    exact_error: float
    """Its standard error, over pairs."""
    scores: TextScores | None
    """BLEU and chrF; None without sacrebleu."""
    pairs_per_second: float
    """That were written."""


def pairs_named(
    found: Inspected,
    data: Sequence[str],
    *,
    targets: Sequence[str] = (),
    fields: PairFields | None = None,
) -> PairDataset:
    """The pairs in the files `data`, as the model reads them, or those its run was evaluated on.

    Args:
        found: The model.
        data: Tables, JSON lines or, with `targets`, texts.
        targets: The files of the targets then.
        fields: Where rows have what; as the model's run says, or by the usual names, if None.

    Raises:
        DataError: A file is missing or damaged, or all pairs are too long.
        ConfigError: Nothing is named, and the checkpoint lies in no run.
        TokenizerError: The tokenizer has no token that ends a sequence.
    """
    if not data:
        pairs = held_out_pairs(settings_of(found.folder, remedy="name pairs, as with --data"))
    else:
        settings = found.settings
        if fields is None and settings is not None:
            fields = PairFields(settings.src_field, settings.tgt_field)
        errors = "strict" if settings is None else settings.errors
        pairs = read_pairs(data, fields=fields or PairFields(), targets=targets, errors=errors)
    return dataset_of(pairs, found.tokenizer, length=found.model.config.seq_len)


def dataset_of(pairs: Sequence[Pair], tokenizer: Tokenizer, *, length: int) -> PairDataset:
    """`pairs` as a model reads them whose sources and targets have `length` tokens at most."""
    return PairDataset(pairs, source_of(tokenizer), tokenizer, length=length)


def scores_of_rows(
    model: Network, dataset: PairDataset, *, arithmetic: Arithmetic, batch_size: int
) -> Tensor:
    """What `row_scores` finds of each pair, (R, 4) float64, those of like length together."""
    objective = PairObjective(model, LossConfig(loss_chunk=_CHUNK), arithmetic=arithmetic)
    return torch.cat(
        [
            row_scores(
                objective, DeviceBatch.of(arrays).each(lambda part: part.to(arithmetic.device))
            )
            for arrays in dataset.batches(batch_size=batch_size)
        ]
    )


def score_pairs(found: Inspected, dataset: PairDataset, *, batch_size: int) -> PairScores:
    """Predict every token of every target, from its source and the true tokens before it.

    Args:
        found: The model.
        dataset: The pairs.
        batch_size: Pairs to read at once.
    """
    start = time.perf_counter()
    rows_R4 = scores_of_rows(
        found.model, dataset, arithmetic=found.arithmetic, batch_size=batch_size
    )
    seconds = time.perf_counter() - start
    nats, tokens, right, whole = rows_R4.T.numpy()
    loss, loss_error = mean_and_error(nats, tokens)
    token_accuracy, token_error = mean_and_error(right, tokens)
    sequence_accuracy, sequence_error = mean_and_error(whole)
    return PairScores(
        loss=loss,
        loss_error=loss_error,
        perplexity=math.exp(min(loss, 700.0)),
        token_accuracy=token_accuracy,
        token_accuracy_error=token_error,
        sequence_accuracy=sequence_accuracy,
        sequence_accuracy_error=sequence_error,
        tokens=round(tokens.sum()),
        pairs=len(dataset),
        left_out=dataset.num_long,
        pairs_per_second=len(dataset) / seconds,
    )


def write_pairs(
    found: Inspected,
    sources: Sequence[str],
    *,
    batch_size: int,
    beams: int | None = None,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
) -> list[str]:
    """The target of each source: the likeliest token at a time, or the best that beams find.

    Args:
        found: The model.
        sources: What it reads.
        batch_size: Sources to read at once, without beams.
        beams: How many; greedy if None.
        length_penalty: What they are ranked by, as in `Generator.beam_search`.
        max_new_tokens: The most of a target; as many as the model has room for if None.
    """
    length = max_new_tokens or found.model.config.seq_len
    generator = Generator(found.model, found.tokenizer)
    with found.arithmetic.autocast():
        if beams is None:
            return write_targets(generator, sources, length=length, rows=batch_size)
        best = (
            generator.beam_search(
                source, beams=beams, max_new_tokens=length, length_penalty=length_penalty
            )[0]
            for source in sources
        )
        return [target.text for target in best]


def score_written(
    written: Sequence[str], expected: Sequence[str], *, seconds: float
) -> WrittenScores:
    """How near targets that took `seconds` to write are to those that were expected."""
    exact, error = mean_and_error([one == two for one, two in zip(written, expected, strict=True)])
    scores = score_texts(written, expected) if has_sacrebleu() else None
    return WrittenScores(len(written), exact, error, scores, len(written) / seconds)
