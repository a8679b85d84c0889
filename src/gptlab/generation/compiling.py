"""Whether the steps of a request are compiled."""

from typing import Literal

from gptlab.generation.compiled_steps import CompiledSteps
from gptlab.generation.steps import Steps
from gptlab.generation.weights import weights_of
from gptlab.model import GPT

Compile = Literal["auto", "on", "off"]

# What compiling takes, and what it saves in a step, on a usual processor, in seconds.
_SECONDS, _SECONDS_A_LAYER, _SAVED_A_LAYER, _SAVED_A_BYTE = 4.0, 1.0, 2e-4, 3e-11
# How many times its cost it must save: texts may end early.
_MARGIN = 2.0


class Compiler:
    """The steps of one model, plain and compiled.

    Args:
        model: In evaluation mode.
        compile: `on`, `off`, or `auto`: for requests so long that it pays, and without it, saying
            so, where it fails.
    """

    def __init__(self, model: GPT, *, compile: Compile = "off") -> None:
        self._mode = compile
        self._plain = Steps(model)
        self._compiled: CompiledSteps | None = None

    def steps(self, tokens: int) -> Steps:
        """How to read a request of so many tokens."""
        model = self._plain.model
        if self._mode == "off" or (self._mode == "auto" and not _pays(model, tokens)):
            return self._plain
        if self._compiled is None or not self._compiled.is_current:
            self._compiled = CompiledSteps(model, must=self._mode == "on")
        return self._compiled


def _pays(model: GPT, steps: int) -> bool:
    """Whether compiling saves clearly more time in so many steps than it takes.

    By rule, and not by stopwatch, so that the same request always gives the same bits.
    """
    layers = model.config.num_layers
    saved = _SAVED_A_LAYER * layers
    if model.device.type == "cpu":
        saved += _SAVED_A_BYTE * sum(t.numel() * t.element_size() for t in weights_of(model))
    return steps * saved > _MARGIN * (_SECONDS + _SECONDS_A_LAYER * layers)
