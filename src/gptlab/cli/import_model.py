"""gptlab-import: a model of another tool as a checkpoint of gptlab."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from gptlab.cli.eval_output import Row, table
from gptlab.cli.flags import CommandLine
from gptlab.cli.main import run
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.model import Network
    from gptlab.model.network import AnyNetwork
    from gptlab.tokenizer import Tokenizer


class ImportCommand(CommandLine):
    """Write a model of another tool, with its tokenizer, as a checkpoint of gptlab.

    SOURCE is a folder of Hugging Face's transformers (GPT-2, Llama, Mistral, Qwen2, Qwen3,
    GPT-NeoX), a .pt file of nanoGPT, or a name on Hugging Face's hub, such as distilgpt2.
    """

    positional: ClassVar[str | None] = "source"

    source: tuple[Source, ...] = ()
    """The folder, the file or the name of the model."""
    output: Source | None = None
    """Folder to write; a checkpoint that is there is replaced."""
    tokenizer: Source | None = None
    """A tokenizer to use instead of the model's own: a folder, a file, or tiktoken:NAME."""
    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Type of the numbers; as they are if not given."""
    seq_len: PositiveInt | None = None
    """A shorter context; as long as the model's if not given."""


def main() -> None:
    """Entry point of the command."""
    run(_import, ImportCommand, prog="gptlab-import")


def _import(command: ImportCommand) -> None:
    if len(command.source) != 1:
        raise ConfigError(
            f"it takes one model to import, not {len(command.source)}; name a folder, as in "
            "gptlab-import FOLDER --output runs/NAME"
        )
    if command.output is None:
        raise ConfigError("there is no folder to write; name one with --output")
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab import interop
    from gptlab.checkpoint import save
    from gptlab.checkpoint.files import require_replaceable
    from gptlab.tokenizer.chat import template_in
    from gptlab.training.precision import Arithmetic

    output = Path(command.output)
    require_replaceable(output)
    found = interop.find_model(command.source[0])
    if found.resolve() == output.resolve():
        raise ConfigError(f"--output {output} is the model itself; choose another folder")
    model, tokenizer = interop.load(found, tokenizer=command.tokenizer)
    if command.seq_len is not None:
        model = _shortened(model, command.seq_len)
    if command.precision is not None:
        model = model.to(Arithmetic(model.device, command.precision).dtype)
    save(output, model, tokenizer, chat_template=template_in(found))
    print(table(_rows(found, output, model, tokenizer)))


def _shortened(model: "AnyNetwork", seq_len: int) -> "AnyNetwork":
    from gptlab.model.settings import with_settings

    config = model.config
    if seq_len > config.seq_len:
        raise ConfigError(
            f"seq_len is {seq_len}, but the model's context is {config.seq_len} and can only "
            f"shrink; give {config.seq_len} or less"
        )
    return with_settings(model, seq_len=seq_len, dropout=config.dropout, attention=config.attention)


def _rows(found: Path, output: Path, model: "Network", tokenizer: "Tokenizer") -> list[Row]:
    from gptlab.interop.loading import family_name

    config = model.config
    ids = f"{tokenizer.vocab_size:,} ids"
    return [
        ("model", str(found)),
        ("written to", str(output)),
        ("family", family_name(found)),
        ("parameters", f"{model.num_parameters():,}"),
        ("dtype", str(model.dtype).removeprefix("torch.")),
        ("context", f"{config.seq_len:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("tokenizer", f"{type(tokenizer).__name__}, {ids}"),
    ]


if __name__ == "__main__":
    main()
