"""Models to checkpoint folders and back."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
from gptlab.checkpoint.tensors import TensorFile, taking, write_tensors
from gptlab.config import LoRA, ModelConfig, Quantization
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.model import GPT, add_lora, merged
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
        lora: What the adapters among them are; they get a file of their own.
        base: A file that holds the others already, so that it need not be written again.

    Raises:
        OSError: They can't be written.
    """
    write_header(folder, config, step=step, quantization=quantization, lora=lora)
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
        CheckpointError: There is none, it is damaged, or it has no tokenizer.
    """
    folder = find_checkpoint(path)
    verify(folder)
    model = load_model(folder, device=device, attention=attention)
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
) -> GPT:
    """The model of one checkpoint folder, in evaluation mode; checksums are not looked at.

    Its numbers are of the type that they were saved in. Adapters are merged, or left beside their
    base without `merge`.
    """
    header = read_header(folder)
    quantization, lora = header.get("quantization"), read_lora(folder, header)
    try:
        config = ModelConfig(**{**header["model"], "attention": attention})
        model = without_memory(config)
        if quantization is not None:
            replace_matrices(model, Quantization.model_validate(quantization))
        if lora is not None:
            add_lora(model, lora, seed=0)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    with ExitStack() as stack:
        names = [WEIGHTS] if lora is None else [WEIGHTS, ADAPTER]
        files = [stack.enter_context(TensorFile(folder / name)) for name in names]
        of = {name: file for file in files for name in file.tensors}
        tensors = {name: file.tensors[name] for name, file in of.items()}
        norm = tensors.get("norm.weight")
        if norm is not None and norm.is_floating_point():
            model.to(norm.dtype)
        _require_fit(model, tensors, folder / WEIGHTS)
        fill(model, lambda name: of[name].read(name), device=device)
    return merged(model) if merge else model


def load_state_dict(
    path: str | Path, config: ModelConfig, *, device: torch.device | str = "cpu"
) -> GPT:
    """The model whose weights are a bare state dict, a `.pth` file, in evaluation mode.

    Raises:
        CheckpointError: The file is no state dict, or does not fit `config`.
    """
    model, tensors = without_memory(config), _read_state_dict(Path(path))
    _require_fit(model, tensors, Path(path))
    return fill(model, taking(tensors), device=device)


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


def without_memory(config: ModelConfig) -> GPT:
    """A model whose tensors have shapes and no memory, for `fill` to give them theirs."""
    # So that no weights are drawn only to be replaced.
    with torch.device("meta"), _Unfilled():
        return GPT(config)


class _Unfilled(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which loads torch's compiler to fill what has no memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def fill(model: GPT, read: Callable[[str], Tensor], *, device: torch.device | str) -> GPT:
    """Give a model without memory its tensors, and put it into evaluation mode.

    They are read one at a time and become the model's own, so that there is one copy of them.

    Args:
        model: From `without_memory`; its numbers are of the type that they shall have.
        read: Gives the tensor of a name, of the right shape and shared with nothing.
        device: Where the model goes.
    """
    likes = model.state_dict()
    # The largest first: what was only needed to rearrange it then has room for each later one, and
    # the memory of the process grows by the tensors alone.
    names = sorted(likes, key=lambda name: -likes[name].nbytes)
    tensors = {name: read(name).to(device=device, dtype=likes[name].dtype) for name in names}
    model.load_state_dict(tensors, assign=True)
    # What is stored nowhere is made anew.
    model._apply(lambda x: torch.empty_like(x, device=device) if x.is_meta else x)
    return model.eval()


def _require_fit(model: GPT, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors that are not those of `model`, by name, shape and bits."""
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
