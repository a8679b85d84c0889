"""Rotary positions as a `config.json` says them, in its old spelling and its new one.

    old: "rope_theta": 1e4, "rope_scaling": {"type" or "rope_type": "linear", "factor": 2.0}
    new: "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}

The old one is written, for all versions of transformers read it.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.interop.family import Rotary
from gptlab.model.positions import HIGH_TURNS

# "dynamic" stretches nothing up to max_position_embeddings, and a model of ours reads no further.
_UNSTRETCHED = ("default", "dynamic")
_LOW = MappingProxyType({"llama3": "low_freq_factor", "yarn": "beta_slow"})
_HIGH = MappingProxyType({"llama3": "high_freq_factor", "yarn": "beta_fast"})


def read_rotary(rotary: Rotary, document: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ours for the rotary positions of a `config.json`.

    Raises:
        CheckpointError: They are of a kind that gptlab has not, or lack a number.
    """
    given = document.get("rope_parameters") or document.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in given.values()):
        raise CheckpointError(
            "its rope_parameters differ by layer, which gptlab does not compute; supported are "
            "those of all layers alike"
        )
    share = given.get("partial_rotary_factor", rotary.usual_share)
    if rotary.share is not None:
        share = given.get("partial_rotary_factor", document.get(rotary.share, share))
    elif share != 1.0:
        raise CheckpointError(
            f"its setting partial_rotary_factor is {share!r}, which gptlab does not compute; "
            "supported is 1.0"
        )
    theta = given.get("rope_theta") or document.get(rotary.theta) or document.get("rope_theta")
    values = {"rope_theta": theta or 10_000.0, "rotary_share": share}
    return values | _read_scaling(given, document["max_position_embeddings"])


def write_rotary(rotary: Rotary, config: ModelConfig) -> dict[str, Any]:
    """What a `config.json` says of the rotary positions of `config`."""
    document: dict[str, Any] = {rotary.theta: config.rope_theta, "rope_scaling": None}
    if rotary.share is not None:
        document[rotary.share] = config.rotary_share
    kind = config.rope_scaling
    if kind is None:
        return document
    scaling: dict[str, Any] = {"rope_type": kind, "factor": config.rope_factor}
    if kind != "linear":
        scaling["original_max_position_embeddings"] = config.rope_original_len
        scaling[_LOW[kind]] = config.rope_low_turns
        scaling[_HIGH[kind]] = config.rope_high_turns or HIGH_TURNS[kind]
    if kind == "yarn" and config.rope_attention_factor is not None:
        scaling["attention_factor"] = config.rope_attention_factor
    return document | {"rope_scaling": scaling}


def _read_scaling(given: Mapping[str, Any], length: int) -> dict[str, Any]:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in _UNSTRETCHED:
        return {}
    if kind not in ("linear", "llama3", "yarn"):
        raise CheckpointError(
            f"its setting rope_type is {kind!r}, which gptlab does not compute; supported are "
            f"{', '.join(_UNSTRETCHED)}, linear, llama3, yarn"
        )
    original = given.get("original_max_position_embeddings") or length
    needed = ["factor", *([_LOW[kind], _HIGH[kind]] if kind == "llama3" else [])]
    for name in needed:
        if given.get(name) is None and not (kind == "yarn" and name in given):
            raise CheckpointError(f"its rope_scaling of type {kind} lacks {name}")
    factor = given["factor"] or length / original
    values = {"rope_scaling": kind, "rope_factor": factor}
    if kind == "linear":
        return values
    low, high = given.get(_LOW[kind]), given.get(_HIGH[kind]) or HIGH_TURNS[kind]
    values |= {"rope_original_len": original, "rope_low_turns": low or 1.0, "rope_high_turns": high}
    return values | (_yarn(given, factor) if kind == "yarn" else {})


def _yarn(given: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """What yarn has besides: how queries and keys are scaled."""
    if not given.get("truncate", True):
        raise CheckpointError(
            "its setting truncate of rope_scaling is False, which gptlab does not compute; "
            "supported is True"
        )
    scale, of_all = given.get("mscale"), given.get("mscale_all_dim")
    attention = given.get("attention_factor")
    if attention is None and scale and of_all:
        growth = 0.1 * math.log(max(factor, 1.0))
        attention = (growth * scale + 1.0) / (growth * of_all + 1.0)
    return {"rope_attention_factor": attention}
