"""Models to checkpoint folders and back."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from gptlab.checkpoint.filling import fill, made_without_memory, require_fit
from gptlab.checkpoint.find import find_checkpoint
from gptlab.checkpoint.staging import link, publish, seal, staged, writing
from gptlab.checkpoint.tensors import TensorFile, write_tensors
from gptlab.config import HeadSettings, LoRA, ModelConfig, Quantization
from gptlab.config.model import AttentionBackend
from gptlab.config.transformer import Architecture
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.model import Network, add_lora, merged
from gptlab.model.architectures import config_class, make_network
from gptlab.model.head import Head
from gptlab.model.heads import add_head, head_class
from gptlab.model.lora import is_adapter
from gptlab.model.quantize import replace_matrices
from gptlab.model.stack import Stack
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.chat import ChatTemplate


def save(
    folder: str | Path,
    model: Network,
    tokenizer: Tokenizer | None = None,
    *,
    step: int = 0,
    chat_template: ChatTemplate | None = None,
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Write `model` and its tokenizer into `folder`, whole or not at all.

    Args:
        folder: A new folder; one that is there already is replaced.
        model: What to save.
        tokenizer: Saved along, so that the folder can turn text into text.
        step: Optimizer steps taken; decides which checkpoint of a run is the newest.
        chat_template: How the model's conversations are written, if it has them.
        extra: Writes more files into the folder that it is given.

    Raises:
        CheckpointError: It can't be written, or something else is at `folder`.
        ConfigError: The model is a part of an encoder-decoder.
    """
    folder = Path(folder)
    if isinstance(model, Stack) and model.is_part:
        raise ConfigError(
            "the model is a part of an encoder-decoder, which is saved as a whole; save that"
        )
    require_replaceable(folder)
    target = folder.resolve()
    with writing(folder), staged(target) as partial:
        write_model(
            partial,
            model.config,
            model.state_dict(),
            step=step,
            architecture=model.architecture,
            quantization=model.quantization,
            head=None if model.head is None else model.head.settings,
            lora=model.lora,
        )
        if tokenizer is not None:
            tokenizer.save(partial)
        if chat_template is not None:
            chat_template.save(partial)
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
    architecture: Architecture,
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
        architecture: Which network it is.
        quantization: In how many bits they are, if not in floating point.
        head: What stands on the model, if that is not a language model.
        lora: What the adapters among them are; they get a file of their own, with the head.
        base: A file that holds the others already, so that it need not be written again.

    Raises:
        OSError: They can't be written.
    """
    write_header(
        folder,
        config,
        step=step,
        architecture=architecture,
        quantization=quantization,
        lora=lora,
        head=head,
    )
    if lora is not None:
        adapters = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
        write_tensors(folder / ADAPTER, adapters)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in adapters}
    if base is None:
        write_tensors(folder / WEIGHTS, tensors)
    else:
        link(base, folder / WEIGHTS)


def load_with_head(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
    own: type[Head] | None = None,
) -> tuple[Stack, Tokenizer]:
    """The model of a checkpoint, in evaluation mode, with whatever head is on it; its tokenizer.

    A quantized model comes back as such, and one with adapters as a plain model with these merged.
    `interop.load` is for language models, and refuses one with another head.

    Args:
        path: A checkpoint, or a run whose newest one is meant.
        device: Where the model goes.
        attention: The backend of this machine, not of that which trained the model.
        own: The class of a head of one's own.

    Raises:
        CheckpointError: There is none, it is damaged, has no tokenizer, or is an encoder-decoder.
        ConfigError: The head is of one's own and its class is missing, or the other way round.
    """
    folder = find_checkpoint(path)
    verify(folder)
    model = load_model(folder, device=device, attention=attention, own=own)
    if not isinstance(model, Stack):
        raise CheckpointError(
            f"{folder} is an encoder-decoder, on which no head stands; give a GPT or an "
            "encoder alone"
        )
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
) -> Network:
    """The model of one checkpoint folder, in evaluation mode; checksums are not looked at.

    Its numbers are of the type that they were saved in. Adapters are merged, or left beside their
    base without `merge`. A head comes along; `own` is the class of one of one's own.
    """
    header = read_header(folder)
    quantization, lora = header.get("quantization"), read_lora(folder, header)
    head = _head_settings(folder, header)
    head_class(head, own)
    architecture = header["architecture"]
    try:
        config = config_class(architecture)(**{**header["model"], "attention": attention})
        model = made_without_memory(lambda: make_network(architecture, config))
        if quantization is not None:
            replace_matrices(model, Quantization.model_validate(quantization))
        if isinstance(model, Stack):
            if lora is not None:
                add_lora(model, lora, seed=0)
            # Last, for adapters keep what is there from learning.
            with torch.device("meta"):
                add_head(model, head, own=own)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    with ExitStack() as stack:
        names = [WEIGHTS] if lora is None else [WEIGHTS, ADAPTER]
        files = [stack.enter_context(TensorFile(folder / name)) for name in names]
        of = {name: file for file in files for name in file.tensors}
        tensors = {name: file.tensors[name] for name, file in of.items()}
        dtype = _dtype_of(tensors)
        if dtype is not None:
            model.to(dtype)
        require_fit(model, tensors, folder / WEIGHTS)
        fill(model, lambda name: of[name].read(name), device=device)
    return merged(model) if merge and isinstance(model, Stack) else model


def _dtype_of(tensors: Mapping[str, Tensor]) -> torch.dtype | None:
    """The type of a model's numbers, which norms have in any bits."""
    norm = next((x for name, x in tensors.items() if name.endswith("attention_norm.weight")), None)
    return norm.dtype if norm is not None and norm.is_floating_point() else None


def require_language_model(folder: Path) -> None:
    """Refuse a checkpoint whose model has a head in the place of next-token logits.

    Raises:
        CheckpointError: It has, or its header is damaged.
    """
    head = read_header(folder).get("head")
    if head is not None:
        kind = head.get("head") if isinstance(head, dict) else "damaged"
        raise CheckpointError(
            f"{folder} is no language model, for it has a head of another kind ({kind}); "
            "read texts with gptlab-predict, or load it with gptlab.ModelWithHead.load"
        )


def _head_settings(folder: Path, header: Mapping[str, Any]) -> HeadSettings:
    try:
        return HeadSettings(**header.get("head", {}))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: head: {error}") from None
