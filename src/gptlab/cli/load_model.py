"""Which model a command asks for, and loading it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.plot import find_run
from gptlab.config import ModelConfig
from gptlab.config.model import Activation, Norm, Positions
from gptlab.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gptlab.model import GPT
    from gptlab.tokenizer import Tokenizer

_NEEDED = ("vocab_size", "embed_dim", "n_heads", "num_layers")
_CHECKED = (*_NEEDED, "seq_len", "positions", "norm", "activation")


class ModelChoice(CommandLine):
    """The flags that say which model is meant."""

    model_path: str | None = None
    """A run by name or folder, a checkpoint folder, a folder of Hugging Face's or a name on its
    hub, nanoGPT's .pt, or a bare .pth state dict; the newest run if not given."""
    tokenizer_path: str | None = None
    """A tokenizer to use instead of the model's; needed with a state dict."""
    vocab_size: PositiveInt | None = None
    """Needed with a state dict, else checked against the checkpoint; so are the next ones."""
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
    activation: Activation | None = None
    """Non-linearity; a state dict tells swiglu, else relu2 if not given."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    runs_dir: str = "runs"
    """Where to look for the newest run, and for runs that are given by name."""


def load_model(choice: ModelChoice) -> "tuple[GPT, Tokenizer]":
    """The model that `choice` means and its tokenizer; says on standard error which it is.

    Raises:
        CheckpointError: There is none, it is damaged, or it is of another shape than stated.
        ConfigError: A shape or a tokenizer is missing, or does not fit.
    """
    from gptlab import checkpoint, interop
    from gptlab.interop.nanogpt import is_nanogpt
    from gptlab.tokenizer import load_tokenizer
    from gptlab.training.precision import choose_device

    device = choose_device(choice.device)
    path = _path(choice)
    given = None if choice.tokenizer_path is None else load_tokenizer(choice.tokenizer_path)
    if path.is_file() and not is_nanogpt(path):
        if given is None:
            raise ConfigError(f"{path} is a bare state dict; name its --tokenizer_path")
        model = checkpoint.load_state_dict(path, _config_of_state_dict(choice, path), device=device)
        tokenizer = given
    else:
        found = interop.find_model(path)
        print(f"model: {found}", file=sys.stderr)
        model, tokenizer = interop.load(found, device=device, tokenizer=given)
        _check(choice, model.config, path)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"tokenizer {choice.tokenizer_path} has {tokenizer.vocab_size} tokens, but the model "
            f"knows {model.config.vocab_size}; give the tokenizer it was trained with"
        )
    return model, tokenizer


def _path(choice: ModelChoice) -> Path:
    runs = Path(choice.runs_dir)
    if choice.model_path is None:
        return newest_run(runs)
    for path in (runs / choice.model_path, Path(choice.model_path)):
        if path.exists():
            return path
    from gptlab.interop import hub

    try:
        return find_run(choice.model_path, runs)
    except ConfigError as error:
        if not hub.is_name(choice.model_path):
            raise
        missing = error
    try:
        return hub.download(choice.model_path)
    except CheckpointError as error:
        raise ConfigError(f"{missing}; {error}") from None


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

    missing = [name for name in _NEEDED if getattr(choice, name) is None]
    if missing:
        raise ConfigError(
            f"{choice.model_path} is a bare state dict; say its shape with "
            f"{', '.join('--' + name for name in missing)}"
        )
    given = {name: getattr(choice, name) for name in _CHECKED}
    stated = {name: value for name, value in given.items() if value is not None}
    return ModelConfig(**{**implied_settings(path, n_heads=given["n_heads"]), **stated})


def _check(choice: ModelChoice, config: ModelConfig, path: Path) -> None:
    for name in _CHECKED:
        stated, actual = getattr(choice, name), getattr(config, name)
        if stated is not None and stated != actual:
            raise ConfigError(
                f"--{name} is {stated}, but {path} has {actual}; write --{name} {actual}, or "
                "leave it out"
            )
