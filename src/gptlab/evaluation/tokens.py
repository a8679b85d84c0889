"""How well a model predicts the tokens of a text, in one pass over it.

Letters: B batch, T window length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.data import TokenDataset
from gptlab.evaluation.comparison import mean_and_error
from gptlab.evaluation.held_out import Subject
from gptlab.training.evaluate import evaluate_forward
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums, target_losses

TOP = 5


@dataclass(frozen=True)
class TokenScores:
    """A model's predictions of each token of a text. Errors are NaN where there is one window."""

    loss: float
    """Mean -log p in nats per token."""
    loss_error: float
    """Its standard error, as far as other windows of such text would have another loss."""
    perplexity: float
    bits_per_byte: float
    """NaN where the text that was predicted is not known."""
    top1: float
    """Share of tokens that are the likeliest by the model, given those before them."""
    top1_error: float
    """Its standard error."""
    top5: float
    """Share of tokens that are among the five likeliest."""
    top5_error: float
    """Its standard error."""
    tokens: int
    """How many were predicted."""
    windows: int
    """In how many windows of the model's seq_len."""


def score_tokens(
    subject: Subject, datasets: Sequence[TokenDataset], *, batch_size: int
) -> TokenScores:
    """Predict every token of `datasets` from those before it in its window.

    It is the evaluation of training, with its masks where the model's run has them.

    Args:
        subject: The model.
        datasets: One after another.
        batch_size: Windows to read at once.

    Raises:
        DataError: There is no token to predict.
    """
    settings, counting = subject.settings, _CountingForward(subject)
    whole = evaluate_forward(
        counting,
        subject.model,
        datasets,
        batch_size=batch_size,
        device=subject.arithmetic.device,
        document_mask=None if settings is None else settings.document_mask,
        reset_positions=None if settings is None else settings.reset_positions,
    )
    # Tokens, nats, hits of each window.
    tokens, nats, first, among = torch.cat(counting.windows, dim=1).numpy()
    _, loss_error = mean_and_error(nats, tokens)
    top1, top1_error = mean_and_error(first, tokens)
    top5, top5_error = mean_and_error(among, tokens)
    return TokenScores(
        loss=whole.loss,
        loss_error=loss_error,
        perplexity=whole.perplexity,
        bits_per_byte=whole.bits_per_byte,
        top1=top1,
        top1_error=top1_error,
        top5=top5,
        top5_error=top5_error,
        tokens=whole.tokens,
        windows=len(tokens),
    )


class _CountingForward:
    """The forward pass of an evaluation, which keeps what each window came to."""

    def __init__(self, subject: Subject) -> None:
        self.windows: list[Tensor] = []
        """(4, B) float64 a batch: tokens, nats, tokens that come first, and among the first."""
        self._model, self._arithmetic = subject.model, subject.arithmetic

    def __call__(self, batch: DeviceBatch) -> LossSums:
        with self._arithmetic.autocast():
            logits_BTV = self._model(
                batch.inputs, documents=batch.documents, positions=batch.positions
            )
        nats_BT = target_losses(logits_BTV, batch.targets).nats
        counts_BT = torch.ones_like(nats_BT) if batch.weights is None else batch.weights
        ahead_BT = tokens_ahead(logits_BTV, batch.targets)
        parts = (torch.ones_like(nats_BT), nats_BT, ahead_BT < 1, ahead_BT < TOP)
        sums_4B = torch.stack([(part * counts_BT).sum(dim=1) for part in parts])
        self.windows.append(sums_4B.cpu().double())
        tokens, nats = sums_4B[:2].sum(dim=1)
        none = torch.zeros_like(nats)
        return LossSums(nats, tokens, nats, tokens, none, none)


def tokens_ahead(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """How many tokens a model takes for likelier than each target, (B, T) int64.

    Of equally likely ones, that with the lower id is ahead, so that a model which prefers none is
    right as often as chance.
    """
    targets_BT1 = targets_BT.unsqueeze(-1)
    own_BT1 = logits_BTV.gather(-1, targets_BT1)
    is_lower_BTV = torch.arange(logits_BTV.shape[-1], device=logits_BTV.device) < targets_BT1
    is_ahead_BTV = (logits_BTV > own_BT1) | ((logits_BTV == own_BT1) & is_lower_BTV)
    return is_ahead_BTV.sum(dim=-1)
