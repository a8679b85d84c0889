"""How a model reads: whole prompts, and one token a row, compiled where that is asked for.

Letters: B rows, T prompt length, S places of a cache, D model width, V vocabulary.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from gptlab.errors import BackendError
from gptlab.generation.weights import in_huge_pages, weights_of
from gptlab.model import GPT, KVCache
from gptlab.model.cache import LayerCache

Compile = Literal["auto", "on", "off"]

_RECOMPILE_LIMIT = 256
# A product and its sum rounded once, not twice, which takes half the instructions.
_OPTIONS: Mapping[str, bool | int | str] = MappingProxyType(
    {"cpp.enable_floating_point_contract_flag": "fast"}
)
# What compiling takes, and what it saves in a step, on a usual processor, in seconds.
_SECONDS, _SECONDS_A_LAYER, _SAVED_A_LAYER, _SAVED_A_BYTE = 4.0, 1.0, 2e-4, 3e-11
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
    is_even: bool,
) -> Tensor:
    """Read one token a row into a cache's tensors; logits (B, V). This is what is compiled.

    Args:
        model: In evaluation mode.
        tokens_B1: What to read, int64.
        positions_B1: Where it stands, int64.
        places_S: As long as the part of the cache that is looked at.
        keys: Of each layer, (B, C, H, K).
        values: Of each layer.
        is_even: Whether all rows hold the same number of tokens.
    """
    held = places_S.shape[0]
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
        self._compiled: Callable[..., Tensor] | None = None
        self._traced: set[bool] = set()

    def expect(self, tokens: int) -> None:
        """Compile, if it is to be, for `tokens` more steps."""
        if self._mode == "off" or self._compiled is not None:
            return
        if self._mode == "auto" and not _pays(self.model, tokens):
            return
        if self.model.device.type == "cpu":
            in_huge_pages(self.model)
        self._compiled = torch.compile(next_logits, fullgraph=True, options=dict(_OPTIONS))

    def make_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for this model."""
        return KVCache(
            self.model.config,
            batch_size=rows,
            capacity=capacity,
            device=self.model.device,
            dtype=_dtype(self.model),
        )

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

    def _decode_compiled(
        self, compiled: Callable[..., Tensor], tokens_B1: Tensor, cache: KVCache
    ) -> Tensor:
        is_single = len(tokens_B1) == 1
        layers = cache.layers(1)
        places_S = torch.arange(layers[0].held, device=cache.device)
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        arguments = (tokens_B1, cache.positions_BT(1), places_S, keys, values)
        if is_single in self._traced:
            logits_BV = compiled(self.model, *arguments, is_single)
        else:
            _mark_sizes(*arguments)
            try:
                with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT):
                    logits_BV = compiled(self.model, *arguments, is_single)
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
