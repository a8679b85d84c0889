"""What training minimises and evaluation measures: from a batch to sums.

    batch -+-> model --> a loss for each target -+-> sums: objective, weight, nats, tokens ...
           +-> a weight for each target ---------+

Letters: B batch, T length, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gptlab.config import LossConfig
from gptlab.errors import ConfigError
from gptlab.model import Network
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import (
    LossSums,
    TargetLosses,
    chunked_target_losses,
    target_losses,
    weighted_sum,
)
from gptlab.training.precision import Arithmetic

Forward = Callable[[DeviceBatch], LossSums]
"""An `Objective`, or what a compiler or DistributedDataParallel made of it."""

_DEFAULT_KEY_WEIGHTS = {"token": 2.0, "sample": 1.0}


class Objective(nn.Module):
    """A model, and what is minimised of it.

    A row of a batch adds the same to each sum whatever rows are beside it. So the sums of
    micro-batches, or of the batches of several processes, add up to those of the whole batch.

    Args:
        model: On the device of `arithmetic`.
        config: What is minimised; plain cross entropy if None.
        arithmetic: In which precision the model computes.
        key_ids: Ids of the key tokens. In mode `token` such a target weighs `key_weight`, and
            others weigh 1. In mode `sample` all targets of a row weigh 1 + `key_weight` * the
            number of key tokens in the row, its first input and its last target included. This
            is `keytoken_weighted_loss` of https://huggingface.co/learn/llm-course/chapter7/6, but
            for the mean, which here is over the weights.

    Raises:
        ConfigError: A key token is outside the model's vocabulary.
    """

    is_key_V: Tensor | None

    def __init__(
        self,
        model: Network,
        config: LossConfig | None = None,
        *,
        arithmetic: Arithmetic,
        key_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config or LossConfig()
        self.arithmetic = arithmetic
        self.key_weight = self.config.key_weight or _DEFAULT_KEY_WEIGHTS[self.config.key_mode]
        table = _table(key_ids, model.config.vocab_size, arithmetic.device) if key_ids else None
        self.register_buffer("is_key_V", table, persistent=False)

    def forward(self, batch: DeviceBatch) -> LossSums:
        """The sums of `batch`."""
        losses = self._losses(batch)
        nats = losses.nats
        objective, weight = weighted_sum(losses.minimised, self._weights(batch))
        counts = None if batch.weights is None else batch.weights > 0
        nats_sum, tokens = weighted_sum(nats, counts)
        if self.is_key_V is None:
            key_nats, key_tokens = torch.zeros_like(nats_sum), torch.zeros_like(tokens)
        else:
            is_key = self.is_key_V[batch.targets]
            key_nats, key_tokens = weighted_sum(nats, is_key if counts is None else is_key & counts)
        return LossSums(objective, weight, nats_sum, tokens, key_nats, key_tokens)

    def weight(self, batch: DeviceBatch) -> Tensor:
        """The `weight` that `forward` returns for `batch`, which its tokens alone decide."""
        weights = self._weights(batch)
        if weights is None:
            return torch.full((), float(batch.targets.numel()), device=batch.targets.device)
        return weights.float().sum()

    def states(self, batch: DeviceBatch) -> Tensor:
        """The hidden states from which targets are predicted, (B, T, D)."""
        return self.model.hidden_states(
            batch.inputs, documents=batch.documents, positions=batch.positions
        )

    def logits(self, batch: DeviceBatch) -> Tensor:
        """The logits of the targets, (B, T, V)."""
        with self.arithmetic.autocast():
            return self.model.logits(self.states(batch))

    def _losses(self, batch: DeviceBatch) -> TargetLosses:
        config, model = self.config, self.model
        if config.loss_chunk is None:
            return target_losses(
                self.logits(batch),
                batch.targets,
                label_smoothing=config.label_smoothing,
                z_loss=config.z_loss,
            )
        with self.arithmetic.autocast():
            return chunked_target_losses(
                self.states(batch),
                batch.targets,
                logits=model.logits,
                chunk=config.loss_chunk,
                label_smoothing=config.label_smoothing,
                z_loss=config.z_loss,
            )

    def _weights(self, batch: DeviceBatch) -> Tensor | None:
        """How much each target counts in the objective, (B, T); 1 if None."""
        if self.is_key_V is None:
            return batch.weights
        is_key_BT = self.is_key_V[batch.targets]
        if self.config.key_mode == "token":
            weights_BT = torch.where(is_key_BT, self.key_weight, 1.0)
        else:
            if batch.weights is not None:
                # What fills up a row may have the id of a key token.
                is_key_BT = is_key_BT & (batch.weights > 0)
            first_B1 = self.is_key_V[batch.inputs[:, :1]]
            number_B1 = first_B1.float() + is_key_BT.sum(dim=1, keepdim=True)
            weights_BT = (1 + self.key_weight * number_B1).expand(batch.targets.shape)
        return weights_BT if batch.weights is None else weights_BT * batch.weights.float()


def _table(key_ids: Sequence[int], vocab_size: int, device: torch.device) -> Tensor:
    """Which of all ids are key tokens, (V,) bool."""
    outside = [id for id in key_ids if not 0 <= id < vocab_size]
    if outside:
        raise ConfigError(
            f"key token {outside[0]} is outside the model's vocabulary of {vocab_size}; give ids "
            "of the model's own tokenizer"
        )
    table = torch.zeros(vocab_size, dtype=torch.bool)
    table[list(key_ids)] = True
    return table.to(device)
