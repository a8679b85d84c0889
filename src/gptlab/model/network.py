"""What all networks have in common, whatever they are made of."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from gptlab.config import LoRA, ModelConfig, Quantization
from gptlab.config.transformer import Architecture
from gptlab.model.blocks import Block
from gptlab.model.head import Head
from gptlab.model.multi_head import MultiHead
from gptlab.model.quantized import QuantizedMatrix

AnyNetwork = TypeVar("AnyNetwork", bound="Network")


class Network(nn.Module):
    """The base of all networks. What a subclass of its own lacks, it can't do."""

    architecture: ClassVar[Architecture]
    """What a checkpoint calls it."""

    config: ModelConfig
    """Its shape and parts."""

    quantization: Quantization | None = None
    """In how many bits its matrices are, if not in floating point."""

    lora: LoRA | None = None
    """What its adapters are, if it has some."""

    head: Head | None
    """What else stands on the hidden states, as `heads.add_head` puts it there."""

    @property
    def all_blocks(self) -> Sequence[Block]:
        """Its blocks, in the order in which they compute."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of what it computes with."""
        return self._like.dtype

    @property
    def attention(self) -> str:
        """The backend that computes attention."""
        return self.all_blocks[0].attention.backend

    def use_attention(self, backend: str) -> None:
        """Compute attention by another backend than the configuration names."""
        for module in self.modules():
            if isinstance(module, MultiHead):
                module.backend = backend

    @property
    def activation_checkpointing(self) -> bool:
        """Whether training computes each block twice instead of keeping what is in it.

        The same numbers in less memory (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
        """
        return self.all_blocks[0].is_recomputed

    @activation_checkpointing.setter
    def activation_checkpointing(self, is_recomputed: bool) -> None:
        for block in self.all_blocks:
            block.is_recomputed = is_recomputed

    def num_parameters(self) -> int:
        """Number of values that training finds; a shared matrix counts once, in any bits."""
        return sum(self._sizes().values())

    @property
    def _like(self) -> Tensor:
        # No bits are taken from a norm.
        weight = self.all_blocks[0].attention_norm.weight
        assert isinstance(weight, Tensor)
        return weight

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token, forward and backward."""
        raise NotImplementedError

    def hidden_states(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `logits` turns into logits, (B, T, D), from what `forward` takes."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., D)."""
        raise NotImplementedError

    def _sizes(self) -> dict[str, int]:
        """How many values each parameter has, or had before it was quantized, by its name."""
        sizes = {name: parameter.numel() for name, parameter in self.named_parameters()}
        for name, module in self.named_modules():
            if isinstance(module, QuantizedMatrix):
                sizes[f"{name}.weight"] = math.prod(module.shape)
        return sizes
