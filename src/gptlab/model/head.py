"""What every head is, and the template of one's own.

    tokens --> GPT.hidden_states --> head --> outputs -+-> loss, with targets
                                                       +-> answer, in words

Letters: B batch, T length, D model width, K values.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gptlab.config.heads import IGNORED, HeadSettings, TargetKind
from gptlab.errors import ConfigError


class Head(nn.Module):
    """The base of all heads. A row's outputs and loss never depend on the rows beside it.

    Args:
        settings: What it is.
        width: D, of the hidden states.
    """

    targets: ClassVar[TargetKind] = "numbers"
    """What it learns from."""

    def __init__(self, settings: HeadSettings, *, width: int) -> None:
        super().__init__()
        self.settings, self.width = settings, width

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Outputs (B, ...) of texts of `lengths_B` tokens, int64 and at least 1.

        What is behind a text's length is filling, which must not count.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises, float32, for each target: (B,), or (B, T) of words.

        Args:
            outputs: Of `forward`; those of texts in pairs are (B, 2, ...).
            targets: "class": (B,) int64. "numbers": (B, K) float32. "word_classes": (B, T) int64,
                `IGNORED` where a token has none. "similarity": (B, 1) float32.
        """
        raise NotImplementedError

    def estimate(self, outputs: Tensor) -> Tensor:
        """The best guess at the targets, shaped as they are: what accuracy and errors are of."""
        raise NotImplementedError

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:
        """What to tell a user of one text, as JSON holds it.

        Args:
            output: Of that text alone, (...), on the CPU.
            places: Of its tokens those that are spoken of: the last of each word for word classes,
                else all.
        """
        raise NotImplementedError

    def weights(self, targets: Tensor) -> Tensor:
        """How much each target's loss counts, float32, shaped as `loss` gives it."""
        if self.targets in ("class", "word_classes"):
            return (targets != IGNORED).float()
        return torch.ones(len(targets), device=targets.device)


class EmptyHead(Head):
    """Passes hidden states through: the template of a head of one's own.

    A subclass says in `targets` what it learns from, and writes what it does otherwise. Its
    parameters may have any names: those of one dimension that end in `norm.weight` begin as ones,
    biases as zeros, and all other weights, which are matrices, small and random.
    """

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """The hidden states, (B, T, D)."""
        return hidden_BTD

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """None: it has nothing to learn."""
        raise ConfigError(
            f"{type(self).__name__} has no loss to train with; write its method `loss`"
        )

    def estimate(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:
        """The states at `places`, a list each."""
        return {"hidden_states": output[list(places)].float().tolist()}
