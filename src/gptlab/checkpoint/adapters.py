"""Adapters of a model in files of their own, and on their base again.

A checkpoint of a model with adapters holds all: the base in `model.safetensors`, the adapters in
`adapter.safetensors`, what they are in `config.json` under "lora". Saved alone, a folder has

    config.json            as in a checkpoint
    adapter.safetensors    the adapters, and rows of special tokens that were added to the base
    tokenizer files        as the tokenizer saves them
    chat_template.json     where it was trained on conversations: how these are written
    checksums.json         SHA-256 of every file above

The base is known by a digest of its weights, so that adapters never get onto another one.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.checkpoint.files import ADAPTER, CONFIG, WEIGHTS, read_header, verify, write_header
from gptlab.checkpoint.find import find_checkpoint
from gptlab.checkpoint.staging import publish, seal, staged, writing
from gptlab.checkpoint.tensors import TensorFile, load_tensors, write_tensors
from gptlab.config import LoRA, ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.model import Network, add_lora, merged
from gptlab.model.lora import require_plain
from gptlab.model.settings import with_settings
from gptlab.model.stack import AnyStack
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.chat import template_in

_NEW_ROWS = "new_rows/"
_GROWING = ("embedding.weight", "lm_head.weight")


def fingerprint(model: Network) -> str:
    """SHA-256 hex digest of a model's weights as float32, whatever the type that they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_adapter(folder: str | Path, source: str | Path) -> Path:
    """Write the adapters of a fine-tuned model into `folder`, without their base.

    Args:
        folder: A new folder.
        source: A run that trained adapters, whose newest checkpoint is meant, or one of those.

    Raises:
        CheckpointError: There are none, something is at `folder`, or it can't be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists already; give a new folder")
    checkpoint = find_checkpoint(source)
    verify(checkpoint)
    header = read_header(checkpoint)
    lora = read_lora(checkpoint, header)
    if lora is None:
        raise CheckpointError(f"{checkpoint} has no adapters; train some with --lora_rank")
    if "head" in header:
        raise CheckpointError(
            f"{checkpoint} has a head, which adapters alone lack; keep the whole checkpoint"
        )
    tensors = {**load_tensors(checkpoint / ADAPTER), **_new_rows(checkpoint, lora)}
    target = folder.resolve()
    with writing(folder), staged(target) as partial:
        config = ModelConfig(**header["model"])
        write_header(
            partial,
            config,
            step=header["step"],
            architecture=header["architecture"],
            lora=lora,
        )
        write_tensors(partial / ADAPTER, tensors)
        load_tokenizer(checkpoint).save(partial)
        template = template_in(checkpoint)
        if template is not None:
            template.save(partial)
        seal(partial)
        publish(partial, target)
    return folder


def with_adapter(model: AnyStack, folder: str | Path) -> tuple[AnyStack, Tokenizer]:
    """`model`, which is used up, with adapters merged into it, and their tokenizer.

    Args:
        model: What the adapters were trained on, as it was before that.
        folder: What `save_adapter` wrote, or a run that trained adapters.

    Raises:
        CheckpointError: There are none, they are damaged, or they are of another model.
    """
    source = _find(Path(folder))
    header = read_header(source)
    lora = read_lora(source, header)
    if lora is None:
        raise CheckpointError(f"{source} has no adapters; give a run with lora_rank, or its export")
    if "head" in header:
        raise CheckpointError(
            f"{source} has a head beside its adapters; load it whole, with "
            "gptlab.ModelWithHead.load"
        )
    require_plain(model, "adapt")
    if model.config.vocab_size != lora.vocab_size or fingerprint(model) != lora.fingerprint:
        raise CheckpointError(
            f"the adapters in {source} were trained on another model; give the one that "
            "their run had as init_from"
        )
    tensors = load_tensors(source / ADAPTER)
    if (source / WEIGHTS).exists():
        tensors |= _new_rows(source, lora)
    attention = model.config.attention
    rows = {name: tensors.pop(_NEW_ROWS + name, None) for name in _GROWING}
    model = _grown(model.float(), header["model"]["vocab_size"], rows)
    settings = ModelConfig(**header["model"])
    model = with_settings(
        model, seq_len=settings.seq_len, dropout=settings.dropout, attention=attention
    )
    add_lora(model, lora, seed=0)
    expected = {name for name in model.state_dict() if name.endswith(("lora_a", "lora_b"))}
    if tensors.keys() != expected:
        raise CheckpointError(f"{source / ADAPTER} does not fit {source / CONFIG}; use another one")
    model.load_state_dict(tensors, strict=False)
    return merged(model).eval(), load_tokenizer(source)


def read_lora(folder: Path, header: dict[str, Any]) -> LoRA | None:
    """What the adapters in `folder` are; None if there are none.

    Raises:
        CheckpointError: The header is damaged.
    """
    if header.get("lora") is None:
        return None
    try:
        return LoRA(**header["lora"])
    except (ConfigError, TypeError):
        raise CheckpointError(f"{folder / CONFIG} is damaged; use another checkpoint") from None


def _find(folder: Path) -> Path:
    """Where adapters lie: whole, in `folder` or in a checkpoint of the run there."""
    is_alone = (folder / ADAPTER).is_file()
    source = folder if is_alone else find_checkpoint(folder)
    verify(source)
    return source


def _new_rows(checkpoint: Path, lora: LoRA) -> dict[str, Tensor]:
    """What the base of a checkpoint has beyond the ids of the model that was adapted."""
    with TensorFile(checkpoint / WEIGHTS) as file:
        return {
            _NEW_ROWS + name: file.read(name)[lora.vocab_size :].clone()
            for name in _GROWING
            if name in file.tensors and len(file.tensors[name]) > lora.vocab_size
        }


@torch.no_grad()
def _grown(model: AnyStack, vocab_size: int, rows: dict[str, Tensor | None]) -> AnyStack:
    """`model` with the given rows of further ids."""
    if vocab_size == model.config.vocab_size:
        return model
    model.config = model.config.replace(vocab_size=vocab_size)
    for name, new in rows.items():
        if new is None:
            continue
        layer: Any = model.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(torch.cat((layer.weight, new.to(layer.weight))))
        if isinstance(layer, nn.Embedding):
            layer.num_embeddings = vocab_size
        else:
            layer.out_features = vocab_size
    return model
