"""Models in files of GGUF, which llama.cpp reads, and back.

Names and shapes are those of llama.cpp's own converter: matrices have the type that is asked for,
vectors and learned positions 32 bits. What its architectures compute is in `gguf_architecture`.

Letters: H heads, K head width, D columns.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import ExportError
from gptlab.interop.gguf_architecture import (
    Architecture,
    architecture_of,
    config_of,
    metadata,
    named_architecture,
)
from gptlab.interop.gguf_tokenizer import vocabulary
from gptlab.interop.packages import package
from gptlab.model import GPT
from gptlab.model.positions import frequencies, rotary_frequencies, rotary_scale, rotary_table
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatTemplate

Type = Literal["F32", "F16", "BF16", "Q8_0"]

_TOP = MappingProxyType(
    {
        "embedding": "token_embd",
        "position_embedding": "position_embd",
        "norm": "output_norm",
        "lm_head": "output",
    }
)
_BLOCK = MappingProxyType(
    {
        "attention_norm": "attn_norm",
        "attention.qkv_proj": "attn_qkv",
        "attention.o_proj": "attn_output",
        "attention.q_norm": "attn_q_norm",
        "attention.k_norm": "attn_k_norm",
        "feed_forward_norm": "ffn_norm",
        "feed_forward.gate_proj": "ffn_gate",
        "feed_forward.up_proj": "ffn_up",
        "feed_forward.down_proj": "ffn_down",
    }
)
_ALWAYS_F32 = ("position_embd.weight", "rope_freqs.weight")
_ROPE_FACTORS = "rope_freqs.weight"
_BLOCK_OF_8_BITS = 32
# What the file's header says of most of its matrices: the numbers of llama.cpp's LLAMA_FTYPE.
_FILE_TYPES = MappingProxyType({"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32})


def write_gguf(
    path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    type: Type,
    chat_template: ChatTemplate | None = None,
) -> tuple[str, ...]:
    """Write `model` and its tokenizer into one file; where llama.cpp is not quite like them.

    Args:
        path: The file.
        model: On any device; no quantized one.
        tokenizer: Its vocabulary fits the model's.
        chat_template: How conversations are written, if the model has them.
        type: Of the matrices. Of Q8_0, those whose rows don't divide into 32s have 16 bits.

    Raises:
        ExportError: llama.cpp has no such model or no such tokenizer, or the package gguf is not
            installed.
        OSError: It can't be written.
    """
    gguf = package("gguf", extra="gguf", use="a GGUF file")
    architecture = architecture_of(model.config)
    words = vocabulary(tokenizer, size=model.config.vocab_size, chat_template=chat_template)
    writer = gguf.GGUFWriter(path, architecture.name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_FILE_TYPES[type])
    for key, value in {**metadata(model.config, architecture), **words.keys}.items():
        _add(writer, key, value)
    kinds = {}
    for name, tensor in tensors(model, architecture):
        kinds[name] = kind = gguf.GGMLQuantizationType[_type_of(name, tensor.shape, type)]
        shape, size = tuple(tensor.shape), _bytes_of(gguf, tensor, kind)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors(model, architecture):
            values = tensor.detach().float().cpu().contiguous().numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    finally:
        writer.close()
    return words.notes


def _add(writer: Any, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    add |= {str: writer.add_string, list: writer.add_array}
    # An empty array has no type, and says nothing.
    if value != []:
        add[type(value)](key, value)


def _type_of(name: str, shape: torch.Size, wanted: Type) -> Type:
    if len(shape) < 2 or name in _ALWAYS_F32:
        return "F32"
    return "F16" if wanted == "Q8_0" and shape[-1] % _BLOCK_OF_8_BITS else wanted


def _bytes_of(gguf: Any, tensor: Tensor, kind: Any) -> int:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    return int(tensor.numel() // values * size)


def tensors(model: GPT, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Name and content of each tensor of a file, one after another."""
    config = model.config
    for name, tensor in model.state_dict().items():
        their_name = their(name)
        if not their_name.endswith(("attn_qkv.weight", "attn_qkv.bias")) or architecture.fused:
            yield their_name, tensor
            continue
        heads = {"q": config.n_heads, "k": config.kv_heads, "v": config.kv_heads}
        parts = tensor.split([number * config.head_dim for number in heads.values()])
        for (letter, number), part in zip(heads.items(), parts, strict=True):
            turns = architecture.interleaved and letter != "v"
            part_name = their_name.replace("attn_qkv", f"attn_{letter}")
            yield part_name, interleaved(part, heads=number) if turns else part
    if architecture.classic:
        yield from _zero_biases(model)
    if architecture.untied and config.tie_embeddings:
        yield "output.weight", model.embedding.weight
    if config.rope_scaling == "llama3":
        plain = frequencies(config.rotary_dim, theta=config.rope_theta)
        yield _ROPE_FACTORS, plain / rotary_frequencies(config)


def _zero_biases(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Biases that llama.cpp wants and the model does not have."""
    present = model.state_dict()
    for name, tensor in present.items():
        bias = name.removesuffix("weight") + "bias"
        wants = not name.endswith(("embedding.weight", "lm_head.weight", "bias"))
        if wants and bias not in present:
            yield their(bias), torch.zeros(len(tensor))


def their(name: str) -> str:
    """The name of a tensor in a file, fused queries, keys and values."""
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    _, number, part = module.split(".", 2)
    return f"blk.{number}.{_BLOCK[part]}.{kind}"


def interleaved(rows: Tensor, *, heads: int) -> Tensor:
    """The rows of queries or keys, (H K, ...), with the two of a rotary pair beside each other."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def halved(rows: Tensor, *, heads: int) -> Tensor:
    """What `interleaved` was made of."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def read_gguf(path: Path) -> GPT:
    """The model in a file that `write_gguf` wrote, in float32, as llama.cpp computes it.

    Raises:
        ExportError: It is of another architecture, or the package gguf is not installed.
    """
    gguf = package("gguf", extra="gguf", use="a GGUF file")
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    found = {tensor.name: torch.from_numpy(_dequantized(gguf, tensor)) for tensor in reader.tensors}
    architecture = named_architecture(keys["general.architecture"])
    config = config_of(keys, {name: tensor.shape for name, tensor in found.items()}, architecture)
    factors = found.pop(_ROPE_FACTORS, None)
    with torch.device("meta"):
        model = GPT(config)
    weights = {name: _ours(name, found, config, architecture) for name in model.state_dict()}
    if found:
        raise ExportError(f"{path} has an unknown tensor '{next(iter(found))}'")
    model.to_empty(device="cpu")
    model.load_state_dict(weights)
    if factors is not None:
        turns = rotary_frequencies(config) / factors.double()
        tables = rotary_table(config.seq_len, turns, scale=rotary_scale(config))
        model.rotary_cos, model.rotary_sin = tables
    return model.eval()


def _dequantized(gguf: Any, tensor: Any) -> npt.NDArray[np.float32]:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    # Shapes stand in the file with the columns first.
    shape = [int(size) for size in reversed(tensor.shape)]
    return np.array(values, dtype=np.float32).reshape(shape)


def _ours(
    name: str, found: dict[str, Tensor], config: ModelConfig, architecture: Architecture
) -> Tensor:
    """The tensor of this name of ours, taken out of those that were found."""
    their_name = their(name)
    if their_name in found or "attn_qkv" not in their_name:
        return _taken(found, their_name)
    parts = [_taken(found, their_name.replace("attn_qkv", f"attn_{letter}")) for letter in "qkv"]
    if architecture.interleaved:
        heads = (config.n_heads, config.kv_heads)
        parts[:2] = [halved(part, heads=n) for part, n in zip(parts[:2], heads, strict=True)]
    return torch.cat(parts)


def _taken(found: dict[str, Tensor], name: str) -> Tensor:
    if name not in found:
        raise ExportError(f"the file lacks the tensor '{name}'")
    return found.pop(name)


def rounded(model: GPT, type: Type) -> Mapping[str, Tensor]:
    """The weights of `model` as a file of this type has them, in float32, by our names.

    By arithmetic of its own: what reads a file back is held against it.
    """
    return {
        name: _rounded(tensor.detach().float().cpu(), _type_of(their(name), tensor.shape, type))
        for name, tensor in model.state_dict().items()
    }


def _rounded(tensor: Tensor, type: Type) -> Tensor:
    if type == "Q8_0":
        # 32 neighbours share a scale, by which the largest is 127.
        groups = tensor.reshape(-1, _BLOCK_OF_8_BITS)
        scale = groups.abs().amax(dim=-1, keepdim=True) / 127
        steps = groups * torch.where(scale == 0, 0.0, 1 / scale)
        # Halves go away from zero.
        whole = steps.abs().floor()
        integers = (whole + (steps.abs() - whole >= 0.5)).copysign(steps)
        return (integers * scale.half().float()).reshape(tensor.shape)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[type]
    return tensor.to(dtype).float()
