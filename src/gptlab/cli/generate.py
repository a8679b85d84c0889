"""gptlab-generate: a prompt in, its continuation out, as it is made."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import run
from gptlab.config import ModelConfig, SamplingConfig
from gptlab.config.model import Activation, Norm, Positions
from gptlab.config.settings import Seed
from gptlab.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gptlab.generation import Generator
    from gptlab.model import GPT
    from gptlab.tokenizer import Tokenizer

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
_NEEDED = ("vocab_size", "embed_dim", "n_heads", "num_layers")
_CHECKED = (*_NEEDED, "seq_len", "positions", "norm", "activation")


class GenerateCommand(CommandLine):
    """Continue a prompt with a trained model."""

    prompt: str = ""
    """Text to continue; without it the model begins a document."""
    model_path: str | None = None
    """A run, a checkpoint folder, or a bare .pth state dict; the newest run if not given."""
    tokenizer_path: str | None = None
    """A tokenizer to use instead of the checkpoint's; needed with a state dict."""
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
    length: PositiveInt = 100
    """Tokens to generate at most."""
    temperature: NonNegativeFloat = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Draw from the k likeliest tokens."""
    top_p: float | None = None
    """Draw from the smallest set of tokens that holds this much probability."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the likeliest one."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, makes tokens that occurred in the context less likely."""
    seed: Seed | None = None
    """Makes the draw reproducible."""
    stop: tuple[str, ...] = ()
    """Text that ends the generation; may be given several times."""
    num_samples: PositiveInt = 1
    """Continuations of the prompt."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    runs_dir: str = "runs"
    """Where to look for the newest run."""


def main() -> None:
    """Entry point of the command."""
    run(_generate, GenerateCommand, prog="gptlab-generate")


def _generate(command: GenerateCommand) -> None:
    config = SamplingConfig(
        max_new_tokens=command.length,
        **{name: getattr(command, name) for name in _SAMPLING},
    )
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.generation import Generator

    model, tokenizer = _load(command)
    generator = Generator(model, tokenizer)
    _warn_of_slide(command, generator)
    if command.num_samples == 1:
        print(command.prompt, end="", flush=True)
        for piece in generator.stream(command.prompt, config):
            print(piece, end="", flush=True)
        print()
        return
    texts = generator.generate([command.prompt] * command.num_samples, config)
    for number, text in enumerate(texts, start=1):
        print(f"--- {number}\n{command.prompt}{text}")


def _load(command: GenerateCommand) -> "tuple[GPT, Tokenizer]":
    from gptlab import checkpoint
    from gptlab.tokenizer import load_tokenizer
    from gptlab.training.precision import choose_device

    device = choose_device(command.device)
    path = Path(command.model_path or newest_run(Path(command.runs_dir)))
    given = None if command.tokenizer_path is None else load_tokenizer(command.tokenizer_path)
    if path.is_file():
        if given is None:
            raise ConfigError(f"{path} is a bare state dict; name its --tokenizer_path")
        model = checkpoint.load_state_dict(
            path, _config_of_state_dict(command, path), device=device
        )
        tokenizer = given
    else:
        print(f"model: {checkpoint.find_checkpoint(path)}", file=sys.stderr)
        model, saved = checkpoint.load(path, device=device)
        tokenizer = given or saved
        _check(command, model.config, path)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"tokenizer {command.tokenizer_path} has {tokenizer.vocab_size} tokens, but the model "
            f"knows {model.config.vocab_size}; give the tokenizer it was trained with"
        )
    return model, tokenizer


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


def _config_of_state_dict(command: GenerateCommand, path: Path) -> ModelConfig:
    from gptlab.checkpoint import implied_settings

    missing = [name for name in _NEEDED if getattr(command, name) is None]
    if missing:
        raise ConfigError(
            f"{command.model_path} is a bare state dict; say its shape with "
            f"{', '.join('--' + name for name in missing)}"
        )
    given = {name: getattr(command, name) for name in _CHECKED}
    stated = {name: value for name, value in given.items() if value is not None}
    return ModelConfig(**{**implied_settings(path, n_heads=given["n_heads"]), **stated})


def _check(command: GenerateCommand, config: ModelConfig, path: Path) -> None:
    for name in _CHECKED:
        stated, actual = getattr(command, name), getattr(config, name)
        if stated is not None and stated != actual:
            raise ConfigError(
                f"--{name} is {stated}, but {path} has {actual}; write --{name} {actual}, or "
                "leave it out"
            )


def _warn_of_slide(command: GenerateCommand, generator: "Generator") -> None:
    tokens = len(generator.encode_prompt(command.prompt))
    seq_len = generator.model.config.seq_len
    if tokens + command.length > seq_len:
        print(
            f"note: {tokens} + {command.length} tokens exceed the model's seq_len of {seq_len}: "
            "it goes on with the newer half of its context",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
