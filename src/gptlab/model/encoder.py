"""An encoder: a stack of blocks in which every token sees all others.

Letters: B batch, T length, D model width, V vocabulary.
"""

from typing import ClassVar

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.config.transformer import Architecture
from gptlab.errors import ConfigError
from gptlab.model.stack import Stack


class Encoder(Stack):
    """Reads a text both ways, alone or for a decoder (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    Alone, it learns to fill in tokens that are masked, and heads stand on it as on a GPT.

    Args:
        config: Its shape and parts.
        seed: Seed of the initial weights; torch's global generator draws them if None.
        lender: Whose embedding it uses instead of one of its own.
        has_logits: Whether its hidden states become logits.

    Raises:
        ConfigError: The settings have a window, which looks back alone.
    """

    architecture: ClassVar[Architecture] = "encoder"

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int | None = None,
        lender: Stack | None = None,
        has_logits: bool = True,
    ) -> None:
        if config.window is not None:
            raise ConfigError(
                f"window is {config.window}, but an encoder looks both ways; leave it out"
            )
        super().__init__(config, seed=seed, lender=lender, has_logits=has_logits)

    def forward(self, tokens: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of what stands at the place of each of `tokens`, (B, T) int64.

        Args:
            tokens: What to read.
            lengths: (B,) int64, how many tokens of each row are no filling, at least 1; all if
                None.

        Raises:
            ConfigError: There are more tokens than seq_len, or not a length for each row.
        """
        return self.logits(self.hidden_states(tokens, lengths=lengths))

    def hidden_states(self, tokens: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """What `logits` turns into logits: the last norm's output, (B, T, D); as `forward`."""
        B, T = tokens.shape
        self._require_room(T)
        if lengths is not None and lengths.shape != (B,):
            raise ConfigError(
                f"lengths are {tuple(lengths.shape)}, but {B} rows came; give one for each row"
            )
        positions = torch.arange(T, device=tokens.device)
        context = self._context(positions)._replace(is_causal=False, lengths_B=lengths)
        return self._transform(tokens, positions, context)

    def read_texts(self, tokens: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states (B, T, D) of texts of `lengths_B` tokens, filled up at the end to T."""
        return self.hidden_states(tokens, lengths=lengths_B)
