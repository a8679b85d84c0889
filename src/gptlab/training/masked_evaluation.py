"""How good an encoder is at hidden tokens of held-out texts: its loss, and how many it finds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch

from gptlab.data import TokenDataset
from gptlab.data.masking import Masking, masked_batches
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer
from gptlab.training.evaluate import dealt
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import target_losses
from gptlab.training.masked_objective import MaskedObjective
from gptlab.training.ranks import Ranks


@dataclass(frozen=True)
class MaskedEvaluation:
    """Quality over all hidden tokens, which are the same each time."""

    loss: float
    """Mean -log p of what is hidden, in nats."""
    perplexity: float
    masked_tokens: int
    """How many are hidden; of ten, one is replaced by another token and one stays."""
    masked_accuracy: float
    """Share of them that are the likeliest."""

    def __str__(self) -> str:
        return (
            f"evaluation loss {self.loss:.4f} of masked tokens, perplexity {self.perplexity:.2f}, "
            f"{self.masked_accuracy:.2%} found"
        )


@torch.no_grad()
def evaluate_masked(
    objective: MaskedObjective,
    datasets: Sequence[TokenDataset],
    masking: Masking,
    *,
    batch_size: int,
    ranks: Ranks | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> MaskedEvaluation:
    """Read all of `datasets` once; the model is left as it was, and no numbers are drawn.

    Args:
        objective: The model, and how it computes.
        datasets: What to read.
        masking: What is hidden of it.
        batch_size: Windows to read at once; it changes nothing else.
        ranks: Each computes its share of the batches, and all of them get the result.
        before_batch: May raise to break the evaluation off.

    Raises:
        DataError: There is no token to find.
    """
    ranks = ranks or Ranks()
    model, device = objective.model, objective.arithmetic.device
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    batches = masked_batches(datasets, masking, seq_len=model.config.seq_len, batch_size=batch_size)
    try:
        for arrays, is_mine in dealt(batches, ranks):
            before_batch()
            batch = DeviceBatch.of(arrays).each(lambda part: part.to(device))
            found = window_scores(objective, batch)
            if is_mine:
                sums += found.sum(dim=0)
    finally:
        model.train(was_training)
    nats, tokens, right = ranks.sum(sums).tolist()
    if not tokens:
        raise DataError("the evaluation text has not one window; give a longer one")
    return MaskedEvaluation(
        loss=nats / tokens,
        perplexity=math.exp(min(nats / tokens, 700.0)),
        masked_tokens=round(tokens),
        masked_accuracy=right / tokens,
    )


def window_scores(objective: MaskedObjective, batch: DeviceBatch) -> torch.Tensor:
    """Of each window its nats, its hidden tokens and those that are found, (B, 3) float64."""
    assert batch.weights is not None
    logits_BPV = objective.logits(batch)
    nats_BP = target_losses(logits_BPV, batch.targets).nats * batch.weights
    right_BP = (logits_BPV.argmax(dim=-1) == batch.targets) * batch.weights
    scores_B3 = torch.stack([nats_BP.sum(1), batch.weights.sum(1), right_BP.sum(1)], dim=1)
    return scores_B3.cpu().double()


@torch.no_grad()
def guessed(
    objective: MaskedObjective,
    dataset: TokenDataset,
    masking: Masking,
    tokenizer: Tokenizer,
    *,
    length: int,
) -> str:
    """The beginning of `dataset`, with hidden tokens as [the model's guess], or [guess|truth].

    Args:
        objective: The model, and how it computes; left as it was.
        dataset: Whose first window is read.
        masking: What is hidden of it, the same as in an evaluation.
        tokenizer: Makes text of it.
        length: Tokens to show.
    """
    model = objective.model
    was_training = model.training
    model.eval()
    batches = masked_batches([dataset], masking, seq_len=model.config.seq_len, batch_size=1)
    (arrays,) = islice(batches, 1)
    batch = DeviceBatch.of(arrays).each(lambda part: part.to(objective.arithmetic.device))
    guesses = objective.logits(batch)[0].argmax(dim=-1).tolist()
    model.train(was_training)
    marked = {}
    chosen = zip(arrays.places[0].tolist(), arrays.targets[0].tolist(), guesses, strict=True)
    for (place, target, guess), weight in zip(chosen, arrays.weights[0], strict=True):
        if weight:
            named = [guess] if guess == target else [guess, target]
            marked[place] = f"[{'|'.join(tokenizer.decode([token]) for token in named)}]"
    shown = arrays.inputs[0, :length].tolist()
    text = ""
    for is_marked, group in groupby(range(len(shown)), key=marked.__contains__):
        places = list(group)
        plain = [shown[place] for place in places]
        text += "".join(map(marked.__getitem__, places)) if is_marked else tokenizer.decode(plain)
    return text
