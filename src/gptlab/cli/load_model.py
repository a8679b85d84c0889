"""Which model a command asks for, and loading it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.plot import find_run, known_runs
from gptlab.config import ModelConfig
from gptlab.config.model import Activation, Norm, NormPlace, Positions
from gptlab.config.settings import Source
from gptlab.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gptlab.model import Network
    from gptlab.tokenizer import Tokenizer

_NEEDED = ("vocab_size", "embed_dim", "n_heads", "num_layers")
_CHECKED = (*_NEEDED, "seq_len", "positions", "norm", "norm_place", "activation")


class ModelChoice(CommandLine):
    """The flags that say which model is meant."""

    model_path: str | None = None
    """A run by name or folder, a checkpoint folder, a folder of Hugging Face's or a name on its
    hub, nanoGPT's .pt, or a bare .pth state dict; the newest run if not given."""
    tokenizer_path: str | None = None
    """A tokenizer to use instead of the model's; needed with a state dict, unless gptlab-export
    wrote it."""
    adapter: Source | None = None
    """Adapters to merge into the model: what gptlab-export --format adapter wrote, or a run that
    trained them on it."""
    vocab_size: PositiveInt | None = None
    """Needed with such a state dict, else checked against the model; so are the next ones."""
    embed_dim: PositiveInt | None = None
    """Width of the model."""
    n_heads: PositiveInt | None = None
    """Attention heads a block."""
    num_layers: PositiveInt | None = None
    """Number of blocks."""
    seq_len: PositiveInt | None = None
    """Longest context; 256 for a state dict if not given."""
    positions: Positions | None = None
    """How the model knows where a token stands; a state dict tells learned, else rope."""
    norm: Norm | None = None
    """Kind of normalisation; for a state dict, layernorm if not given."""
    norm_place: NormPlace | None = None
    """Where it is; for a state dict, pre if not given."""
    activation: Activation | None = None
    """Non-linearity; a state dict tells swiglu, else relu2 if not given."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    runs_dir: str = "runs"
    """Where to look for the newest run, and for runs that are given by name."""


def load_model(choice: ModelChoice) -> "tuple[Network, Tokenizer]":
    """The model that `choice` means and its tokenizer; says on standard error which it is.

    Raises:
        CheckpointError: There is none, it is damaged, or it is of another shape than stated.
        ConfigError: A shape or a tokenizer is missing, or does not fit.
    """
    from gptlab import checkpoint, interop
    from gptlab.interop.loading import require_ids
    from gptlab.interop.nanogpt import is_nanogpt
    from gptlab.tokenizer import load_tokenizer
    from gptlab.training.precision import choose_device

    device = choose_device(choice.device)
    path = model_path(choice)
    if path.is_file() and not is_nanogpt(path):
        if choice.adapter is not None:
            raise ConfigError(
                f"--adapter goes with a model's folder, but {path} is a bare state dict; leave it "
                "out"
            )
        model: Network = checkpoint.load_state_dict(
            path, _config_of_state_dict(choice, path), device=device
        )
        named = choice.tokenizer_path
        tokenizer = _tokenizer_beside(path) if named is None else load_tokenizer(named)
        require_ids(tokenizer, model, of=named or path)
    else:
        found = interop.find_model(path)
        print(f"model: {found}", file=sys.stderr)
        model, tokenizer = interop.load(
            found, device=device, tokenizer=choice.tokenizer_path, adapter=adapter_path(choice)
        )
        _check(choice, model.config, path)
    return model, tokenizer


def adapter_path(choice: ModelChoice) -> Path | None:
    """Where the adapters lie that `choice` means; None where it names none."""
    from gptlab.checkpoint import named_model

    return None if choice.adapter is None else named_model(choice.adapter, choice.runs_dir)


def model_path(choice: ModelChoice) -> Path:
    """Where the model lies that `choice` means.

    Raises:
        CheckpointError: There is none.
    """
    runs = Path(choice.runs_dir)
    if choice.model_path is None:
        return newest_run(runs)
    from gptlab.checkpoint import named_model
    from gptlab.interop import hub

    path = named_model(choice.model_path, runs)
    if path.exists() or (path.parent.is_dir() and path.parent != Path()):
        return path
    if not hub.is_name(choice.model_path):
        return find_run(choice.model_path, runs)
    try:
        return hub.download(choice.model_path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{known_runs(runs)}") from None


def newest_run(runs: Path) -> Path:
    """The run under `runs` that was written to last.

    Raises:
        CheckpointError: There is none.
    """
    found = [folder for folder in runs.glob("*") if any(folder.glob("[!.]*/model.safetensors"))]
    if not found:
        raise CheckpointError(
            f"there is no trained model under {runs}; train one with gptlab-train, or give "
            "--model_path"
        )
    return max(found, key=lambda folder: folder.stat().st_mtime)


def _config_of_state_dict(choice: ModelChoice, path: Path) -> ModelConfig:
    from gptlab.checkpoint import implied_settings
    from gptlab.interop.manifest import exported_settings

    exported = exported_settings(path.parent, format="pth")
    if exported is not None:
        _check(choice, exported, path)
        return exported
    if choice.tokenizer_path is None:
        raise ConfigError(f"{path} is a bare state dict; name its --tokenizer_path")
    missing = [name for name in _NEEDED if getattr(choice, name) is None]
    if missing:
        raise ConfigError(
            f"{choice.model_path} is a bare state dict; say its shape with "
            f"{', '.join('--' + name for name in missing)}"
        )
    given = {name: getattr(choice, name) for name in _CHECKED}
    stated = {name: value for name, value in given.items() if value is not None}
    return ModelConfig(**{**implied_settings(path, n_heads=given["n_heads"]), **stated})


def _tokenizer_beside(path: Path) -> "Tokenizer":
    """The tokenizer in the folder that gptlab-export wrote."""
    from gptlab.interop.loading import tokenizer_in

    return tokenizer_in(path.parent)


def _check(choice: ModelChoice, config: ModelConfig, path: Path) -> None:
    for name in _CHECKED:
        stated, actual = getattr(choice, name), getattr(config, name)
        if stated is not None and stated != actual:
            raise ConfigError(
                f"--{name} is {stated}, but {path} has {actual}; write --{name} {actual}, or "
                "leave it out"
            )
