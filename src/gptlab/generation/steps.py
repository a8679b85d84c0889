"""How a model reads: whole prompts, and one token a row, compiled where that is asked for.

Letters: B rows, T prompt length, S places of a cache, D model width, V vocabulary.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor

from gptlab.errors import BackendError
from gptlab.generation.cuda_graphs import RecordedSteps, Step
from gptlab.generation.weights import in_huge_pages, weights_of
from gptlab.model import GPT, KVCache
from gptlab.model.cache import LayerCache

Compile = Literal["auto", "on", "off"]

# What compiling takes, and what it saves in a step, on a usual processor, in seconds.
_SECONDS, _SECONDS_A_LAYER, _SAVED_A_LAYER, _SAVED_A_BYTE = 4.0, 1.0, 2e-4, 3e-11
_PLACES = 256
# How many times its cost it must save: texts may end early.
_MARGIN = 2.0


def prefill(model: GPT, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
    """Read prompts into empty rows of a cache; logits (B, V) of what follows each."""
    counts = [len(prompt) for prompt in prompts]
    tokens = torch.zeros(len(prompts), max(counts), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    hidden_BTD = model.hidden_states(tokens.to(cache.device), cache=cache, counts=counts)
    last = torch.tensor(counts, device=cache.device) - 1
    return model.logits(hidden_BTD[torch.arange(len(prompts), device=cache.device), last])


def next_logits(
    model: GPT,
    tokens_B1: Tensor,
    positions_B1: Tensor,
    places_S: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
) -> Tensor:
    """Read one token a row into a cache's tensors; logits (B, V). This is what is compiled.

    Args:
        model: In evaluation mode.
        tokens_B1: What to read, int64.
        positions_B1: Where it stands, int64.
        places_S: As long as the part of the cache that is looked at.
        keys: Of each layer, (B, C, H, K).
        values: Of each layer.
    """
    held = places_S.shape[0]
    # On a GPU there may be more places than tokens.
    is_even = len(tokens_B1) == 1 and tokens_B1.device.type == "cpu"
    layers = [LayerCache(*pair, held) for pair in zip(keys, values, strict=True)]
    hidden_B1D = model.read(tokens_B1, positions_B1, layers, is_even=is_even)
    return model.logits(hidden_B1D[:, 0])


class _CompileError(Exception):
    """Compiling failed, before anything was computed."""


class Steps:
    """Reads single tokens with one model.

    Args:
        model: In evaluation mode.
        compile: `on`, `off`, or `auto`: for requests so long that it pays, and without it, saying
            so, where it fails.
    """

    def __init__(self, model: GPT, *, compile: Compile = "off") -> None:
        self.model = model
        self._mode = compile
        self._compiled: Step | None = None
        self._recorded: RecordedSteps | None = None
        self._traced: set[bool] = set()
        self._free: list[KVCache] = []

    def expect(self, tokens: int) -> None:
        """Compile, if it is to be, for `tokens` more steps."""
        if self._mode == "off" or self._compiled is not None:
            return
        if self._mode == "auto" and not _pays(self.model, tokens):
            return
        self._compiled = partial(_compiled(next_logits), self.model)
        if self.model.device.type == "cpu":
            in_huge_pages(self.model)
        if self.model.device.type == "cuda":
            self._recorded = RecordedSteps(self._compiled)

    def take_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for this model, perhaps one that was given back."""
        for cache in self._free:
            if len(cache) == rows and cache.capacity >= capacity:
                self._free.remove(cache)
                for row in range(rows):
                    cache.shorten(row, 0)
                return cache
        return KVCache(
            self.model.config,
            batch_size=rows,
            capacity=capacity,
            device=self.model.device,
            dtype=_dtype(self.model),
        )

    def give_back(self, cache: KVCache) -> None:
        """Keep a cache that nobody uses any more, for the recordings that are made over it."""
        if self._recorded is not None:
            self._free.append(cache)

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Read one more token a row; logits (B, V) of what follows it."""
        tokens_B1 = torch.tensor(tokens, device=cache.device).unsqueeze(1)
        if self._compiled is not None:
            try:
                return self._decode_compiled(self._compiled, tokens_B1, cache)
            except _CompileError as error:
                self._give_up(error)
        logits_B1V: Tensor = self.model(tokens_B1, cache=cache)
        return logits_B1V[:, 0]

    def _decode_compiled(self, compiled: Step, tokens_B1: Tensor, cache: KVCache) -> Tensor:
        is_single = len(tokens_B1) == 1
        layers = cache.layers(1)
        places = layers[0].held
        if cache.device.type == "cuda":
            # A recording is of one number of places.
            places = min(-(-places // _PLACES) * _PLACES, cache.capacity)
        places_S = torch.arange(places, device=cache.device)
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        inputs = (tokens_B1, cache.positions_BT(1), places_S, keys, values)
        if is_single in self._traced:
            logits_BV = (self._recorded or compiled)(*inputs)
        else:
            _mark_sizes(*inputs)
            try:
                logits_BV = compiled(*inputs)
            except Exception as error:
                raise _CompileError(error) from error
            self._traced.add(is_single)
        cache.advance([1] * len(tokens_B1))
        return logits_BV

    def _give_up(self, error: Exception) -> None:
        """Go on without compiling, or say why that can't be."""
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self._mode == "on":
            raise BackendError(f"torch.compile fails: {reason}; write --compile off") from error
        warnings.warn(f"torch.compile fails here, so it goes on without: {reason}", stacklevel=2)
        self._compiled, self._mode = None, "off"


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, compiled for one model, at whose weights it does not look again.

    That would take as long as a small model's step itself.
    """
    # What is compiled is kept with the code, which no other model may share then.
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(
        own,
        fullgraph=True,
        options={
            # A product and its sum rounded once, not twice, take half the instructions.
            "cpp.enable_floating_point_contract_flag": "fast",
            "size_asserts": False,
            "guard_filter_fn": _looks_at_arguments,
        },
    )


def _looks_at_arguments(guards: Sequence[Any]) -> list[bool]:
    return ["L['model']" not in guard.name for guard in guards]


def _mark_sizes(
    tokens_B1: Tensor,
    positions_B1: Tensor,
    places_S: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
) -> None:
    """Let one compiled function serve all lengths, and all numbers of rows above one."""
    torch._dynamo.mark_dynamic(places_S, 0)
    for tensor in (*keys, *values):
        torch._dynamo.mark_dynamic(tensor, 1)
        torch._dynamo.mark_static(tensor, [2, 3])
    if len(tokens_B1) > 1:
        for tensor in (tokens_B1, positions_B1, *keys, *values):
            torch._dynamo.mark_dynamic(tensor, 0)


def _pays(model: GPT, steps: int) -> bool:
    """Whether compiling saves clearly more time in so many steps than it takes.

    By rule, and not by stopwatch, so that the same request always gives the same bits.
    """
    layers = model.config.num_layers
    saved = _SAVED_A_LAYER * layers
    if model.device.type == "cpu":
        saved += _SAVED_A_BYTE * sum(t.numel() * t.element_size() for t in weights_of(model))
    return steps * saved > _MARGIN * (_SECONDS + _SECONDS_A_LAYER * layers)


def _dtype(model: GPT) -> torch.dtype:
    """The type of the keys and values that the model makes."""
    if torch.is_autocast_enabled(model.device.type):
        return torch.get_autocast_dtype(model.device.type)
    return model.dtype
