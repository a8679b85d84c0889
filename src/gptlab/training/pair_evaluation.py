"""How good a Transformer is on held-out pairs: its loss, and how much of the targets it finds.

Letters: B batch, T target length, N targets of a batch in a row, D model width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.data.pairs import PairDataset
from gptlab.training.evaluate import dealt
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import target_losses
from gptlab.training.pair_objective import PairObjective
from gptlab.training.ranks import Ranks


@dataclass(frozen=True)
class PairEvaluation:
    """Quality over all pairs."""

    loss: float
    """Mean -log p of the targets' tokens, each after the true ones, in nats."""
    perplexity: float
    tokens: int
    """Tokens of the targets, their ends included."""
    token_accuracy: float
    """Share of them that are the likeliest, each after the true ones."""
    sequence_accuracy: float
    """Share of the targets of which all are: those that greedy generation writes as they are."""
    bleu: float | None = None
    """Of greedy generation, from 0 to 100; None where it was not asked for."""
    chrf: float | None = None
    """Likewise."""
    bleu_signature: str | None = None
    """How sacrebleu computed BLEU."""

    def __str__(self) -> str:
        parts = [
            f"evaluation loss {self.loss:.4f}",
            f"tokens right {self.token_accuracy:.2%}",
            f"targets right {self.sequence_accuracy:.2%}",
        ]
        for name, value in (("BLEU", self.bleu), ("chrF", self.chrf)):
            parts += [] if value is None else [f"{name} {value:.1f}"]
        return ", ".join(parts)


@torch.no_grad()
def evaluate_pairs(
    objective: PairObjective,
    dataset: PairDataset,
    *,
    batch_tokens: int,
    ranks: Ranks | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> PairEvaluation:
    """Read every pair of `dataset` once; the model is left as it was, and no numbers are drawn.

    Args:
        objective: The model, and how it computes.
        dataset: What to read.
        batch_tokens: Tokens to read at once, of a pair at least.
        ranks: Each computes its share of the batches, and all of them get the result.
        before_batch: May raise to break the evaluation off.
    """
    ranks = ranks or Ranks()
    model, device = objective.model, objective.arithmetic.device
    was_training = model.training
    model.eval()
    # Those of rows, and their number.
    sums = torch.zeros(5, dtype=torch.float64)
    longest = int((dataset.source_lengths + dataset.target_lengths).max())
    batches = dataset.batches(batch_tokens=max(batch_tokens, longest))
    try:
        for arrays, is_mine in dealt(batches, ranks):
            before_batch()
            batch = DeviceBatch.of(arrays).each(lambda part: part.to(device))
            rows_B4 = row_scores(objective, batch)
            if is_mine:
                sums[:4] += rows_B4.sum(dim=0)
                sums[4] += len(rows_B4)
    finally:
        model.train(was_training)
    nats, tokens, right, whole, rows = ranks.sum(sums).tolist()
    loss = nats / tokens
    return PairEvaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        tokens=round(tokens),
        token_accuracy=right / tokens,
        sequence_accuracy=whole / rows,
    )


@torch.no_grad()
def row_scores(objective: PairObjective, batch: DeviceBatch) -> Tensor:
    """Of each pair: its nats, its tokens, how many are right, and 1 if all are; (B, 4) float64.

    Of equally likely tokens that with the lower id counts, as in greedy generation. Logits are
    held of `loss_chunk` tokens at a time, where the objective has one.
    """
    assert batch.weights is not None
    model, arithmetic, targets_N = objective.model, objective.arithmetic, batch.targets.flatten()
    chunk = objective.config.loss_chunk or len(targets_N)
    with arithmetic.autocast():
        hidden_ND = objective.states(batch).flatten(0, 1)
    nats, right = [], []
    for hidden, targets in zip(
        torch.split(hidden_ND, chunk), torch.split(targets_N, chunk), strict=True
    ):
        with arithmetic.autocast():
            logits = model.logits(hidden)
        nats.append(target_losses(logits, targets).nats)
        right.append(logits.argmax(dim=-1) == targets)
    counts_BT = batch.weights > 0
    nats_BT = torch.cat(nats).view(counts_BT.shape) * counts_BT
    right_BT = torch.cat(right).view(counts_BT.shape)
    parts = (
        nats_BT.sum(dim=1),
        counts_BT.sum(dim=1),
        (right_BT & counts_BT).sum(dim=1),
        (right_BT | ~counts_BT).all(dim=1),
    )
    return torch.stack([part.float() for part in parts], dim=1).cpu().double()
