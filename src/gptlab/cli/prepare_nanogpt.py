"""gptlab-prepare --import_bin and --export_bin: datasets in nanoGPT's layout."""

from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.data import TokenDataset
from gptlab.data.nanogpt import export_nanogpt, import_nanogpt
from gptlab.errors import ConfigError
from gptlab.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from gptlab.cli.prepare import PrepareCommand


def import_bin(command: "PrepareCommand") -> Path:
    """Make a dataset of nanoGPT's files; its folder.

    Raises:
        ConfigError: The source, the output or the tokenizer is missing.
        DataError: The files are not there, are damaged, or are not of this tokenizer.
    """
    if len(command.sources) != 1 or command.output is None or command.tokenizer is None:
        raise ConfigError(
            "--import_bin takes one source, --output and --tokenizer, as in gptlab-prepare "
            "data/openwebtext --import_bin --tokenizer tiktoken:gpt2 --output owt"
        )
    output = Path(command.output)
    import_nanogpt(
        Path(command.sources[0]),
        output,
        tokenizer=load_tokenizer(command.tokenizer),
        overwrite=command.overwrite,
    )
    _say(command, TokenDataset(output), str(output))
    return output


def export_bin(command: "PrepareCommand", dataset: Path, folder: Path) -> None:
    """Write a dataset as nanoGPT's files.

    Raises:
        DataError: There is no dataset, it does not fit 16 bits, or files are there already.
    """
    data = TokenDataset(dataset)
    export_nanogpt(data, folder, overwrite=command.overwrite)
    _say(command, data, str(folder))


def _say(command: "PrepareCommand", dataset: TokenDataset, name: str) -> None:
    if command.quiet:
        return
    dev = f", {len(TokenDataset(dataset.dev)):,} held out" if dataset.dev else ""
    print(f"{name}: {len(dataset):,} tokens{dev}")
