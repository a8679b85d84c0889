"""Steps of single tokens, compiled.

Letters: B rows, S places of a cache, C its capacity, H heads, K head width, V vocabulary.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from gptlab.errors import BackendError
from gptlab.generation.cuda_graphs import RecordedSteps, Step
from gptlab.generation.steps import Steps
from gptlab.generation.weights import in_huge_pages
from gptlab.model import GPT, KVCache
from gptlab.model.cache import LayerCache
from gptlab.model.memory import Memory

# A recording is of one number of places, so that they are counted in so many.
_PLACES = 256
_KEPT_CACHES = 4
# In the name of a guard, which is "L['model']..." in some versions of PyTorch, and not in others.
_MODEL = re.compile(r"\bmodel\b")


def next_logits(
    model: GPT,
    tokens_B1: Tensor,
    positions_B1: Tensor,
    places_S: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    memories: Sequence[Memory],
) -> Tensor:
    """Read one token a row into a cache's tensors; logits (B, V). This is what is compiled.

    Args:
        model: In evaluation mode.
        tokens_B1: What to read, int64.
        positions_B1: Where it stands, int64.
        places_S: As long as the part of the cache that is looked at.
        keys: Of each layer, (B, C, H, K).
        values: Of each layer.
        memories: Of each layer, what a decoder reads of the rows' sources; empty for a GPT.
    """
    held = places_S.shape[0]
    # On a GPU there may be more places than tokens.
    is_even = len(tokens_B1) == 1 and tokens_B1.device.type == "cpu"
    layers = [LayerCache(*pair, held) for pair in zip(keys, values, strict=True)]
    if memories:
        pairs = zip(layers, memories, strict=True)
        layers = [layer._replace(memory=memory) for layer, memory in pairs]
    hidden_B1D = model.read(tokens_B1, positions_B1, layers, is_even=is_even)
    return model.logits(hidden_B1D[:, 0])


class CompiledSteps(Steps):
    """Reads single tokens by code that is compiled when first used.

    It is of the model as it is then: where its type, its device or its attention are other ones
    later, it is no longer `current`.

    Args:
        model: In evaluation mode. On a CPU, its weights move to other memory.
        must: Whether it is an error if compiling fails. If not, it says so and goes on without.
    """

    def __init__(self, model: GPT, *, must: bool) -> None:
        super().__init__(model)
        self._must = must
        self._has_failed = False
        self._traced: set[bool] = set()
        self._free: list[KVCache] = []
        if model.device.type == "cpu":
            in_huge_pages(model)
        self._compiled: Step = partial(_compiled(next_logits), model)
        self._recorded = RecordedSteps(self._compiled) if model.device.type == "cuda" else None
        self._kind = _kind(model)

    @property
    def is_current(self) -> bool:
        """Whether the model is still what was compiled."""
        return self._kind == _kind(self.model)

    def take_cache(self, rows: int, capacity: int, *, memory_capacity: int = 0) -> KVCache:
        """An empty cache for this model, perhaps one that was given back."""
        for cache in self._free:
            has_room = cache.capacity >= capacity and cache.memory_capacity >= memory_capacity
            if len(cache) == rows and has_room:
                self._free.remove(cache)
                for row in range(rows):
                    cache.erase(row)
                return cache
        return super().take_cache(rows, capacity, memory_capacity=memory_capacity)

    def give_back(self, cache: KVCache) -> None:
        """Keep a cache that nobody uses any more, for the recordings that are made over it."""
        if self._recorded is None:
            return
        self._free.append(cache)
        if len(self._free) > _KEPT_CACHES:
            oldest = self._free.pop(0)
            self._recorded.forget([layer.keys for layer in oldest.layers(0)])

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Read one more token a row; logits (B, V) of what follows it.

        Raises:
            BackendError: Compiling fails, and must not.
        """
        # A size of one is no size of all.
        has_one = max(cache.lengths) == 0 or max(cache.memory_lengths) == 1
        if self._has_failed or has_one:
            return super().decode(tokens, cache)
        try:
            return self._decode_compiled(tokens, cache)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._give_up(error)
            return super().decode(tokens, cache)

    def _decode_compiled(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        layers = cache.layers(1)
        places, is_single = layers[0].held, len(tokens) == 1
        if self._recorded is not None:
            places = min(-(-places // _PLACES) * _PLACES, cache.capacity)
        inputs = (
            torch.tensor(tokens, device=cache.device).unsqueeze(1),
            cache.positions_BT(1),
            torch.arange(places, device=cache.device),
            [layer.keys for layer in layers],
            [layer.values for layer in layers],
            # A recording always works on the same memory.
            cache.memories(
                whole=self._recorded is not None,
                counted=self._recorded is not None or not is_single,
            ),
        )
        if is_single in self._traced:
            logits_BV = (self._recorded or self._compiled)(*inputs)
        else:
            _mark_sizes(*inputs)
            logits_BV = self._compiled(*inputs)
            self._traced.add(is_single)
        cache.advance([1] * len(tokens))
        return logits_BV

    def _give_up(self, error: Exception) -> None:
        """Go on without compiling, or say why that can't be."""
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self._must:
            raise BackendError(f"torch.compile fails: {reason}; write --compile off") from error
        warnings.warn(f"torch.compile fails here, so it goes on without: {reason}", stacklevel=2)
        self._has_failed, self._recorded = True, None
        self._free.clear()


def _kind(model: GPT) -> tuple[object, ...]:
    """What compiled code takes for granted; recordings also take where the weights are."""
    weight = cast(Tensor, model.all_blocks[0].attention_norm.weight)
    place = weight.data_ptr() if model.device.type == "cuda" else None
    return model.device, model.dtype, model.attention, place


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, compiled for one model, at which it does not look again, nor at its code.

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
    return [not (guard.is_global or _MODEL.search(guard.name)) for guard in guards]


def _mark_sizes(
    tokens_B1: Tensor,
    positions_B1: Tensor,
    places_S: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    memories: Sequence[Memory],
) -> None:
    """Let one compiled function serve all lengths, and all numbers of rows above one."""
    torch._dynamo.mark_dynamic(places_S, 0)
    remembered = [tensor for memory in memories for tensor in memory[:2]]
    for tensor in (*keys, *values, *remembered):
        torch._dynamo.mark_dynamic(tensor, 1)
        torch._dynamo.mark_static(tensor, [2, 3])
    if len(tokens_B1) == 1:
        return
    lengths = [memory.lengths_B for memory in memories if memory.lengths_B is not None]
    for tensor in (tokens_B1, positions_B1, *keys, *values, *remembered, *lengths):
        torch._dynamo.mark_dynamic(tensor, 0)
