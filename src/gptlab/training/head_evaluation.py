"""How good a head is on held-out rows: its loss, and what its estimates are worth.

Everything is made of sums over rows, which add up over batches and processes.

Letters: C labels, K values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.data.labelled import LabelledDataset
from gptlab.training.evaluate import dealt
from gptlab.training.head_objective import HeadObjective
from gptlab.training.loader import DeviceBatch
from gptlab.training.ranks import Ranks


@dataclass(frozen=True)
class HeadEvaluation:
    """Quality over all rows; what does not apply, or is not defined, is None."""

    loss: float
    """What training minimises, the mean over targets."""
    targets: int
    """Rows, or words that have a label."""
    accuracy: float | None = None
    """Share of the targets whose likeliest label is the right one."""
    macro_f1: float | None = None
    """The mean over labels of F1, the harmonic mean of precision and recall; without labels that
    neither occur nor were guessed."""
    mean_squared_error: float | None = None
    """Over rows and values."""
    pearson: float | None = None
    """Correlation of estimates and targets, the mean over values."""

    def __str__(self) -> str:
        named = {
            "accuracy": self.accuracy,
            "macro-F1": self.macro_f1,
            "mean squared error": self.mean_squared_error,
            "Pearson": self.pearson,
        }
        known = [f"{name} {value:.4f}" for name, value in named.items() if value is not None]
        return ", ".join([f"evaluation loss {self.loss:.4f}", *known])


@torch.no_grad()
def evaluate_head(
    objective: HeadObjective,
    dataset: LabelledDataset,
    *,
    batch_size: int,
    device: torch.device,
    ranks: Ranks | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> HeadEvaluation:
    """Read every row of `dataset` once; the model is left as it was, and no numbers are drawn.

    Args:
        objective: The model with its head.
        dataset: What to read.
        batch_size: Rows to read at once.
        device: Where the model is.
        ranks: Each computes its share of the batches, and all of them get the result.
        before_batch: May raise to break the evaluation off.
    """
    ranks = ranks or Ranks()
    model, head = objective.model, objective.head
    was_training = model.training
    model.eval()
    losses = torch.zeros(2, dtype=torch.float64)
    tally: Tensor | None = None
    try:
        for arrays, is_mine in dealt(dataset.batches(batch_size), ranks):
            before_batch()
            batch = DeviceBatch.of(arrays).each(lambda part: part.to(device))
            outputs = objective.outputs(batch)
            sums = objective.sums_of(outputs, batch.targets)
            found = tally_of(head.estimate(outputs), batch.targets, len(head.settings.labels))
            share = float(is_mine)
            losses += share * torch.stack([sums.objective, sums.weight]).cpu().double()
            tally = share * found if tally is None else tally + share * found
    finally:
        model.train(was_training)
    assert tally is not None
    total, tally = ranks.sum(losses), ranks.sum(tally)
    measures = of_classes(tally) if dataset.kind in ("class", "word_classes") else of_numbers(tally)
    loss, weight = total.tolist()
    return HeadEvaluation(loss=loss / weight, targets=round(weight), **measures)


def tally_of(estimates: Tensor, targets: Tensor, num_labels: int) -> Tensor:
    """What estimates add to a tally, float64 on the CPU; empty where they are no such thing.

    Of classes it is (C, C), how often each label was taken for each; of numbers (K, 6), their
    number and the sums of t, e, t t, e e and t e.
    """
    if estimates.shape != targets.shape:
        return torch.zeros(0, dtype=torch.float64)
    if not targets.is_floating_point():
        counts = targets >= 0
        pairs = targets[counts] * num_labels + estimates[counts]
        tally = torch.bincount(pairs.cpu(), minlength=num_labels**2)
        return tally.double().view(num_labels, num_labels)
    t, e = targets.cpu().double(), estimates.cpu().double()
    moments = (torch.ones_like(t), t, e, t * t, e * e, t * e)
    return torch.stack([moment.sum(dim=0) for moment in moments], dim=-1)


def of_classes(tally: Tensor) -> dict[str, float | None]:
    """Accuracy and macro-F1 of a (C, C) tally."""
    if not tally.numel():
        return {}
    hits, occur, guessed = tally.diagonal(), tally.sum(dim=1), tally.sum(dim=0)
    f1 = [
        2 * hit / (was + guess)
        for hit, was, guess in zip(hits.tolist(), occur.tolist(), guessed.tolist(), strict=True)
        if was + guess
    ]
    return {
        "accuracy": (hits.sum() / tally.sum()).item(),
        "macro_f1": math.fsum(f1) / len(f1),
    }


def of_numbers(tally: Tensor) -> dict[str, float | None]:
    """Mean squared error and correlation of a (K, 6) tally."""
    if not tally.numel():
        return {}
    errors, correlations = [], []
    for n, t, e, tt, ee, te in tally.tolist():
        errors.append((tt - 2 * te + ee) / n)
        spread = (tt - t * t / n) * (ee - e * e / n)
        correlations.append((te - t * e / n) / math.sqrt(spread) if spread > 0 else None)
    known = [value for value in correlations if value is not None]
    return {
        "mean_squared_error": math.fsum(errors) / len(errors),
        "pearson": math.fsum(known) / len(known) if len(known) == len(errors) else None,
    }
