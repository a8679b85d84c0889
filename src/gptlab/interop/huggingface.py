"""Models in the folders of Hugging Face's transformers, in and out.

config.json              the family's settings
model.safetensors        weights under the family's names
generation_config.json   ids that begin, end and pad a text
tokenizer.json ...       the tokenizer's files
modeling_gptlab.py       for models that are of no family: how transformers computes them by gptlab
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.checkpoint.tensors import write_tensors
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop import own_family
from gptlab.interop.families import family_for, family_of
from gptlab.interop.family import Family
from gptlab.interop.reading import read_model
from gptlab.interop.settings import read_settings, write_settings
from gptlab.interop.stored import open_stored
from gptlab.model import GPT
from gptlab.tokenizer import SentencePieceTokenizer, Tokenizer
from gptlab.tokenizer.formats.huggingface import CONFIG_FILE as TOKENIZER_CONFIG

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION_CONFIG = "generation_config.json"
_ROLES = ("bos", "eos", "pad")


def is_huggingface(folder: Path) -> bool:
    """Whether a model of transformers is in `folder`, as far as its `config.json` says."""
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and bool({"model_type", "architectures"} & document.keys())


def read_huggingface(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
) -> GPT:
    """The model in a folder of transformers, in evaluation mode.

    Its numbers are of the type that they are stored in; where they are of several, of one that
    holds all of them. There is one copy of them in memory, also while it is read.

    Args:
        folder: It holds `config.json` and the weights.
        device: Where the model goes.
        attention: The backend of this machine.

    Raises:
        CheckpointError: A file is missing or damaged, the model is of no family that is known here
            or has settings that no model of ours has, or settings and weights contradict.
    """
    family: Family
    folder = Path(folder)
    document = read_document(folder)
    try:
        if own_family.is_own(document):
            family, config = own_family.FAMILY, own_family.read_settings(document)
        else:
            family = family_for(document)
            config = read_settings(family, document)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    with open_stored(folder) as stored:
        config = config.replace(attention=attention)
        return read_model(family, config, stored, settings=CONFIG, device=device)


def write_huggingface(folder: str | Path, model: GPT, tokenizer: Tokenizer | None) -> Family:
    """Write a model and its tokenizer as transformers reads them; the family that it became.

    A model whose settings no family has is written with a module by which transformers computes it
    where gptlab is installed, if it is told to `trust_remote_code`.

    Args:
        folder: Where to; it is made if it is missing.
        model: What to write; its numbers keep their type.
        tokenizer: Written along, if there is one.

    Raises:
        ConfigError: The model is quantized.
        OSError: The files can't be written.
        TokenizerError: The tokenizer's can't.
    """
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight, which no such folder holds; "
            "write the one it was made from"
        )
    family: Family
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        family = family_of(model.config)
    except ConfigError:
        family, document = own_family.FAMILY, own_family.write_settings(model.config)
        source = files("gptlab.interop").joinpath(own_family.MODULE)
        (folder / own_family.MODULE).write_bytes(source.read_bytes())
    else:
        document = write_settings(family, model.config)
    roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_id", None) for role in _ROLES}
    dtype = str(model.dtype).removeprefix("torch.")
    _write_json(folder / CONFIG, {**document, **roles, "torch_dtype": dtype})
    _write_json(folder / GENERATION_CONFIG, roles)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        tensors |= family.to_theirs(name, tensor, model.config)
    write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(folder)
    if isinstance(tokenizer, SentencePieceTokenizer):
        _write_json(folder / TOKENIZER_CONFIG, _config_of_pieces(tokenizer))
    return family


def _config_of_pieces(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """How transformers finds a SentencePiece model to be one, and what plays which role in it."""
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    roles = {f"{role}_token": getattr(tokenizer, f"{role}_id") for role in (*_ROLES, "unk")}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: names[number] for role, number in roles.items() if number in names},
        "clean_up_tokenization_spaces": False,
    }


def read_document(folder: Path) -> dict[str, Any]:
    """What the `config.json` of a model says.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path = folder / CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is no JSON object; download it again")
    return document


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
