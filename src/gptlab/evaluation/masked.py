"""How well an encoder finds hidden tokens of a text, in one pass over it.

Letters: R windows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.config import TrainConfig
from gptlab.config.masking import MaskConfig
from gptlab.data import TokenDataset
from gptlab.data.masking import Masking, masked_batches
from gptlab.errors import DataError
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.inspected import Inspected
from gptlab.model import Network
from gptlab.tokenizer import Tokenizer
from gptlab.training.loader import DeviceBatch
from gptlab.training.masked_evaluation import window_scores
from gptlab.training.masked_objective import MaskedObjective
from gptlab.training.precision import Arithmetic


@dataclass(frozen=True)
class MaskedScores:
    """An encoder's guesses at hidden tokens. Errors are NaN where there is one window."""

    loss: float
    """Mean -log p of what is hidden, in nats."""
    loss_error: float
    """Its standard error, as far as other windows of such text would have another loss."""
    perplexity: float
    masked_accuracy: float
    """Share of hidden tokens that are the likeliest."""
    masked_accuracy_error: float
    """Its standard error."""
    masked_tokens: int
    """How many are hidden; of ten, one is replaced by another token and one stays."""
    windows: int
    """In how many windows of the model's seq_len."""
    mask_share: float
    """Which share of a window's tokens is hidden."""


def score_masked(
    found: Inspected, datasets: Sequence[TokenDataset], *, batch_size: int
) -> MaskedScores:
    """Hide tokens of `datasets`, the same each time, and have the model find them.

    It is the evaluation of training; the share that is hidden is that of the model's run.

    Args:
        found: An encoder.
        datasets: One after another.
        batch_size: Windows to read at once.

    Raises:
        DataError: There is no token to find.
        TokenizerError: The tokenizer has no mask token.
    """
    masking = masking_of(found.tokenizer, found.settings)
    nats_R, hidden_R, right_R = scores_of_windows(
        found.model,
        datasets,
        masking,
        length=found.model.config.seq_len,
        arithmetic=found.arithmetic,
        batch_size=batch_size,
    ).T.numpy()
    loss, loss_error = mean_and_error(nats_R, hidden_R)
    accuracy, accuracy_error = mean_and_error(right_R, hidden_R)
    return MaskedScores(
        loss=loss,
        loss_error=loss_error,
        perplexity=math.exp(min(loss, 700.0)),
        masked_accuracy=accuracy,
        masked_accuracy_error=accuracy_error,
        masked_tokens=round(float(hidden_R.sum())),
        windows=len(hidden_R),
        mask_share=masking.share,
    )


def masking_of(tokenizer: Tokenizer, settings: TrainConfig | None) -> Masking:
    """What a run's evaluation hides; the usual share of a model that lies in no run.

    Raises:
        TokenizerError: The tokenizer has no mask token.
    """
    usual: float = MaskConfig.model_fields["mask_share"].default
    return Masking.of(tokenizer, usual if settings is None else settings.mask_share)


@torch.no_grad()
def scores_of_windows(
    model: Network,
    datasets: Sequence[TokenDataset],
    masking: Masking,
    *,
    length: int,
    arithmetic: Arithmetic,
    batch_size: int,
) -> Tensor:
    """What `window_scores` finds of each window, (R, 3) float64.

    Args:
        model: An encoder, in evaluation mode.
        datasets: One after another.
        masking: What is hidden of them.
        length: Tokens of a window.
        arithmetic: How to compute, and on which device.
        batch_size: Windows to read at once.

    Raises:
        DataError: There is no token to find.
    """
    objective = MaskedObjective(model, arithmetic=arithmetic)
    found = [
        window_scores(
            objective, DeviceBatch.of(arrays).each(lambda part: part.to(arithmetic.device))
        )
        for arrays in masked_batches(datasets, masking, seq_len=length, batch_size=batch_size)
    ]
    if not found:
        raise DataError("the evaluation text has not one window; give a longer one")
    return torch.cat(found)
