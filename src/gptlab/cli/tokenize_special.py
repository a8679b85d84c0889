"""gptlab-tokenize --special: more special tokens, for a tokenizer or a model with one."""

from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.cli.tokenize_output import WEIGHTS_FILES, check_output, check_tokenizer_output
from gptlab.config.training import TOY_TOKENIZER
from gptlab.errors import ConfigError, TokenizerError
from gptlab.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from gptlab.tokenizer.formats.huggingface import TOKENIZER_FILE

if TYPE_CHECKING:
    from gptlab.cli.tokenize import TokenizeCommand


def extend_tokenizer(command: "TokenizeCommand") -> Tokenizer:
    """Save the tokenizer with further special tokens, with its model if it has one.

    Raises:
        ConfigError: There is no output, or it can't be written.
        TokenizerError: The tokenizer can't be extended, or not by these names.
        CheckpointError: The model can't be read or written.
    """
    if command.output is None:
        raise ConfigError("--special makes a new tokenizer; write where it goes, with --output")
    source, folder = command.tokenizer or TOY_TOKENIZER, Path(command.output)
    if _is_model(source):
        check_output(folder, overwrite=command.overwrite)
        tokenizer = _with_model(source, folder, command.special)
        what = "tokens and a model that has them"
    else:
        check_tokenizer_output(folder, overwrite=command.overwrite, file=TOKENIZER_FILE)
        tokenizer = _extended(load_tokenizer(source, kind=command.tokenizer_type), command.special)
        tokenizer.save(folder)
        what = "tokens"
    first = tokenizer.vocab_size - len(command.special)
    new = ", ".join(f"{name} is {i}" for i, name in enumerate(command.special, first))
    print(f"{folder}: {tokenizer.vocab_size:,} {what}; {new}")
    return tokenizer


def _is_model(source: str) -> bool:
    """Whether `source` is a checkpoint, a run, RUN/best or RUN/last, or another tool's model."""
    path = Path(source)
    folders = [path, *path.glob("[!.]*")] if path.exists() else path.parent.glob(f"{path.name}-*")
    return any((folder / name).is_file() for folder in folders for name in WEIGHTS_FILES)


def _extended(tokenizer: Tokenizer, names: tuple[str, ...]) -> Tokenizer:
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"a {type(tokenizer).__name__} can't be extended; give a byte-level BPE, as "
            "gptlab-tokenize --train makes it"
        )
    return tokenizer.with_special_tokens(names)


def _with_model(source: str, folder: Path, names: tuple[str, ...]) -> Tokenizer:
    from gptlab import checkpoint, interop
    from gptlab.tokenizer.chat import template_in

    found = interop.find_model(source)
    model, tokenizer = interop.load_gpt(found)
    model, extended = checkpoint.add_special_tokens(model, tokenizer, names)
    checkpoint.save(folder, model, extended, chat_template=template_in(found))
    return extended
