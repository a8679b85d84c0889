"""Models to checkpoint folders and back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.checkpoint.adapters import read_lora
from gptlab.checkpoint.files import (
    ADAPTER,
    CONFIG,
    WEIGHTS,
    read_header,
    require_replaceable,
    verify,
    write_header,
)
from gptlab.checkpoint.find import find_checkpoint
from gptlab.checkpoint.staging import link, publish, seal, staged, writing
from gptlab.checkpoint.tensors import load_tensors, write_tensors
from gptlab.config import HeadSettings, LoRA, ModelConfig, Quantization
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.model import GPT, add_lora, merged
from gptlab.model.head import Head
from gptlab.model.heads import add_head, head_class
from gptlab.model.lora import is_adapter
from gptlab.model.quantize import replace_matrices
from gptlab.tokenizer import Tokenizer, load_tokenizer


def save(
    folder: str | Path,
    model: GPT,
    tokenizer: Tokenizer | None = None,
    *,
    step: int = 0,
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Write `model` and its tokenizer into `folder`, whole or not at all.

    Args:
        folder: A new folder; one that is there already is replaced.
        model: What to save.
        tokenizer: Saved along, so that the folder can turn text into text.
        step: Optimizer steps taken; decides which checkpoint of a run is the newest.
        extra: Writes more files into the folder that it is given.

    Raises:
        CheckpointError: It can't be written, or something else is at `folder`.
    """
    folder = Path(folder)
    require_replaceable(folder)
    target = folder.resolve()
    with writing(folder), staged(target) as partial:
        write_model(
            partial,
            model.config,
            model.state_dict(),
            step=step,
            quantization=model.quantization,
            head=None if model.head is None else model.head.settings,
            lora=model.lora,
        )
        if tokenizer is not None:
            tokenizer.save(partial)
        if extra is not None:
            extra(partial)
        seal(partial)
        publish(partial, target)
    return folder


def write_model(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    step: int,
    quantization: Quantization | None = None,
    head: HeadSettings | None = None,
    lora: LoRA | None = None,
    base: Path | None = None,
) -> None:
    """Write the header and the weights of a checkpoint into `folder`, which is not sealed yet.

    Args:
        folder: Where to.
        config: The model's settings.
        tensors: Its weights, by name.
        step: Optimizer steps taken.
        quantization: In how many bits they are, if not in floating point.
        head: What stands on the model, if that is not a language model.
        lora: What the adapters among them are; they get a file of their own, with the head.
        base: A file that holds the others already, so that it need not be written again.

    Raises:
        OSError: They can't be written.
    """
    write_header(folder, config, step=step, quantization=quantization, lora=lora, head=head)
    if lora is not None:
        adapters = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
        write_tensors(folder / ADAPTER, adapters)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in adapters}
    if base is None:
        write_tensors(folder / WEIGHTS, tensors)
    else:
        link(base, folder / WEIGHTS)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
) -> tuple[GPT, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of a checkpoint or of a run's newest one.

    The attention backend is this machine's, not that of the machine which trained the model. A
    quantized model comes back as such, and one with adapters as a plain model with these merged.

    Raises:
        CheckpointError: There is none, it is damaged, or it has no tokenizer; or it has a head in
            the place of next-token logits.
    """
    folder = find_checkpoint(path)
    head = read_header(folder).get("head")
    if head is not None:
        raise CheckpointError(
            f"{folder} is no language model, for it has a head of another kind ({_kind(head)}); "
            "read texts with gptlab-predict, or load it with gptlab.ModelWithHead.load"
        )
    return load_with_head(folder, device=device, attention=attention)


def load_with_head(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
    own: type[Head] | None = None,
) -> tuple[GPT, Tokenizer]:
    """As `load`, with whatever head stands on the model.

    Args:
        path: A checkpoint, or a run whose newest one is meant.
        device: Where the model goes.
        attention: The backend of this machine.
        own: The class of a head of one's own.

    Raises:
        CheckpointError: There is none, it is damaged, or it has no tokenizer.
        ConfigError: The head is of one's own and its class is missing, or the other way round.
    """
    folder = find_checkpoint(path)
    verify(folder)
    model = load_model(folder, device=device, attention=attention, own=own)
    try:
        return model, load_tokenizer(folder)
    except TokenizerError as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {error}") from None


def load_model(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
    merge: bool = True,
    own: type[Head] | None = None,
) -> GPT:
    """The model of one checkpoint folder, in evaluation mode; checksums are not looked at.

    Its numbers are of the type that they were saved in. Adapters are merged, or left beside their
    base without `merge`. A head comes along; `own` is the class of one of one's own.
    """
    header, tensors = read_header(folder), load_tensors(folder / WEIGHTS)
    quantization, lora = header.get("quantization"), read_lora(folder, header)
    if lora is not None:
        tensors |= load_tensors(folder / ADAPTER)
    head = _head_settings(folder, header)
    head_class(head, own)
    try:
        config = ModelConfig(**{**header["model"], "attention": attention})
        model = _empty(config)
        if quantization is not None:
            replace_matrices(model, Quantization.model_validate(quantization))
        if lora is not None:
            add_lora(model, lora, seed=0)
        # Last, for adapters keep what is there from learning.
        with torch.device("meta"):
            add_head(model, head, own=own)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    norm = tensors.get("norm.weight")
    if norm is not None and norm.is_floating_point():
        model.to(norm.dtype)
    model = _filled(model, tensors, folder / WEIGHTS, device)
    return merged(model) if merge else model


def load_state_dict(
    path: str | Path, config: ModelConfig, *, device: torch.device | str = "cpu"
) -> GPT:
    """The model whose weights are a bare state dict, a `.pth` file, in evaluation mode.

    Raises:
        CheckpointError: The file is no state dict, or does not fit `config`.
    """
    return _filled(_empty(config), _read_state_dict(Path(path)), Path(path), device)


def implied_settings(path: str | Path, *, n_heads: int) -> dict[str, Any]:
    """The settings that names and shapes in a bare state dict tell, by name of the setting.

    What leaves no trace there is not among them: the kind of norm, GELU or squared ReLU, rotary,
    sinusoidal or no positions, a soft cap.

    Raises:
        CheckpointError: The file is no state dict.
    """
    tensors = _read_state_dict(Path(path))
    implied: dict[str, Any] = {
        "bias": any(name.endswith("o_proj.bias") for name in tensors),
        "qkv_bias": any(name.endswith("qkv_proj.bias") for name in tensors),
        "qk_norm": any(name.endswith("q_norm.weight") for name in tensors),
        "tie_embeddings": "lm_head.weight" not in tensors,
    }
    up = tensors.get("blocks.0.feed_forward.up_proj.weight")
    if up is not None and up.ndim == 2:
        implied["expansion_factor"] = up.shape[0] / up.shape[1]
    qkv = tensors.get("blocks.0.attention.qkv_proj.weight")
    o = tensors.get("blocks.0.attention.o_proj.weight")
    if qkv is not None and o is not None and o.ndim == 2 and len(qkv) > o.shape[1] >= n_heads:
        implied["n_kv_heads"] = (len(qkv) - o.shape[1]) // 2 // (o.shape[1] // n_heads)
        if o.shape[1] != qkv.shape[1]:
            implied["head_width"] = o.shape[1] // n_heads
    if any(name.endswith("gate_proj.weight") for name in tensors):
        implied["activation"] = "swiglu"
    positions = tensors.get("position_embedding.weight")
    if positions is not None:
        implied |= {"positions": "learned", "seq_len": len(positions)}
    return implied


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    except Exception:
        # An unpickler that meets a damaged or a hostile file may raise anything.
        raise CheckpointError(
            f"{path} is no state dict of plain tensors; save one with "
            "torch.save(model.state_dict(), path)"
        ) from None
    if not _is_state_dict(tensors):
        raise CheckpointError(f"{path} holds no state dict; save model.state_dict()")
    state_dict: dict[str, Tensor] = tensors
    return state_dict


def _empty(config: ModelConfig) -> GPT:
    # Without memory, no weights are drawn only to be replaced.
    with torch.device("meta"):
        return GPT(config)


def _filled(
    model: GPT, tensors: Mapping[str, Tensor], source: Path, device: torch.device | str
) -> GPT:
    expected = model.state_dict()
    if _bits(tensors) != _bits(expected):
        raise CheckpointError(
            f"{source} holds {_in_words(_bits(tensors))}, but the model's settings say "
            f"{_in_words(_bits(expected))}; use another checkpoint"
        )
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            problem = "lacks" if name not in tensors else "has an unknown"
            raise CheckpointError(f"{source} {problem} tensor '{name}'; check the model's settings")
        if tensors[name].shape != expected[name].shape:
            flags = "--vocab_size, --embed_dim, --num_layers and --n_heads"
            raise CheckpointError(
                f"{source}: '{name}' is {tuple(tensors[name].shape)}, but the settings make it "
                f"{tuple(expected[name].shape)}; check "
                f"{'group_size' if name.endswith('.scale') else flags}"
            )
    model.to_empty(device=device)
    model.load_state_dict(dict(tensors))
    return model.eval()


def _head_settings(folder: Path, header: Mapping[str, Any]) -> HeadSettings:
    try:
        return HeadSettings(**header.get("head", {}))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: head: {error}") from None


def _kind(head: object) -> str:
    return str(head.get("head")) if isinstance(head, dict) else "damaged"


def _bits(tensors: Mapping[str, Tensor]) -> int | None:
    """In how many bits the matrices among `tensors` are, if not in floating point."""
    types = {tensor.dtype for tensor in tensors.values()}
    return 4 if torch.uint8 in types else 8 if torch.int8 in types else None


def _in_words(bits: int | None) -> str:
    return "numbers in floating point" if bits is None else f"{bits} bits a weight"


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )
