"""A model's matrices in fewer bits."""

import copy
from typing import cast

from torch import nn

from gptlab.config import Quantization
from gptlab.errors import ConfigError
from gptlab.model.gpt import GPT
from gptlab.model.linear import Embedding, Linear
from gptlab.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix


def quantize(model: GPT, *, bits: int = 8, group_size: int | None = None) -> GPT:
    """A copy of `model` whose matrices have `bits` bits a weight; it generates and does not learn.

    All matrices of the blocks, the token embedding and the head; norms, biases and learned
    positions stay as they are.

    Args:
        model: Left as it is, and shares what is not quantized.
        bits: 8 or 4.
        group_size: Weights that share a scale; a row with 8 bits and up to 32 with 4 if None.

    Raises:
        ConfigError: The bits are others, the group size does not divide a matrix, or the model is
            quantized already.
    """
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight already; quantize the one it "
            "was made from"
        )
    # What is replaced is not copied.
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    small = copy.deepcopy(model, memo)
    sources = dict(model.named_modules())
    replace_matrices(small, Quantization(bits=bits, group_size=group_size))
    for name, module in small.named_modules():
        if isinstance(module, QuantizedMatrix):
            module.fill(cast(Linear | Embedding, sources[name]).weight)
    return small.eval().requires_grad_(False)


def replace_matrices(model: GPT, quantization: Quantization) -> None:
    """Put quantized matrices, without memory yet, in the place of those of `model`."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if new := _quantized(module, quantization):
                setattr(parent, name, new)
    model.quantization = quantization


def _quantized(module: nn.Module, quantization: Quantization) -> QuantizedMatrix | None:
    if not isinstance(module, Linear | Embedding):
        return None
    rows, columns = module.weight.shape
    shape, dtype = (rows, columns), module.weight.dtype
    if isinstance(module, Linear):
        return QuantizedLinear(shape, quantization, dtype=dtype, bias=module.bias)
    return QuantizedEmbedding(shape, quantization, dtype=dtype)
