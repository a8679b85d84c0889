"""In what numbers a command generates, and whether by compiled code."""

from typing import TYPE_CHECKING, Literal

from gptlab.cli.flags import CommandLine
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.model.network import AnyNetwork


class ArithmeticChoice(CommandLine):
    """The flags that say how the model computes."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers that the model computes with; auto is as it was saved."""
    quantize: Literal["int8", "int4"] | None = None
    """Keep its matrices in fewer bits."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the steps of single tokens, which takes seconds; auto does for long texts."""


def prepared(model: "AnyNetwork", choice: ArithmeticChoice) -> "AnyNetwork":
    """`model` in the numbers that are asked for.

    Raises:
        ConfigError: It is quantized already.
    """
    import torch

    from gptlab.model import quantize

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if choice.quantize is not None and model.quantization is not None:
        raise ConfigError(
            f"--quantize is {choice.quantize}, but the model has {model.quantization.bits} bits a "
            "weight already; leave it out"
        )
    if choice.quantize is not None:
        # Of the numbers as they were saved, before they are rounded.
        model = quantize(model, bits=8 if choice.quantize == "int8" else 4)
    return model if choice.precision == "auto" else model.to(types[choice.precision])
