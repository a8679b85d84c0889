"""gptlab-prepare: files to a dataset of tokens."""

import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import INTERRUPTED, run
from gptlab.config import PrepareConfig
from gptlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptlab.data import TokenDataset
    from gptlab.data.preparation import PrepareResult
    from gptlab.data.preparation.finish import Report

_RANDOM_WINDOWS = (
    "windows held out at random share text with those for training, so that the evaluation loss is "
    "too low; use it to compare with papers that do so, and --split documents otherwise"
)
_CONSEQUENCES = {"damaged": ", and what follows in the same file"}


class PrepareCommand(PrepareConfig, CommandLine):
    """Turn files, folders or standard input into a dataset of tokens for gptlab-train.

    What is left out is counted by its reason and named in rejects.jsonl. A preparation that was cut
    off goes on when the same command is given again.
    """

    positional: ClassVar[str | None] = "sources"

    check: bool = False
    """Say how much of the held-out part of a dataset is in its training part too."""
    ngram: PositiveInt = 13
    """Tokens in a row that count as the same text for --check."""
    verify: bool = False
    """Read a dataset through and hold it against its checksums."""
    import_bin: bool = False
    """The source is nanoGPT's: a .bin file, or a folder with train.bin and perhaps val.bin."""
    export_bin: str | None = None
    """Folder to which a dataset is written as nanoGPT's train.bin and val.bin."""


def main() -> None:
    """Entry point of the command."""
    run(_main, PrepareCommand, prog="gptlab-prepare")


def _main(command: PrepareCommand) -> int:
    dataset = None
    if command.import_bin:
        from gptlab.cli.prepare_nanogpt import import_bin

        dataset = import_bin(command)
    elif command.output is not None or not (command.check or command.verify or command.export_bin):
        result = _prepare(command)
        if result is None:
            return INTERRUPTED
        dataset = result.path
    dataset = dataset or _named_dataset(command)
    if command.verify:
        from gptlab.data import TokenDataset

        data = TokenDataset(dataset)
        for part in [data, *([TokenDataset(data.dev)] if data.dev else [])]:
            part.verify()
            _verify_tokenizer(part)
            print(f"{part.folder}: {len(part):,} tokens, all as they were written")
    if command.check:
        from gptlab.cli.prepare_check import check

        check(dataset, n=command.ngram)
    if command.export_bin is not None:
        from gptlab.cli.prepare_nanogpt import export_bin

        export_bin(command, dataset, Path(command.export_bin))
    return 0


def _verify_tokenizer(dataset: "TokenDataset") -> None:
    from gptlab.tokenizer import load_tokenizer

    if dataset.tokenizer is not None:
        saved = load_tokenizer(str(dataset.tokenizer)).fingerprint()
        if saved != dataset.manifest["tokenizer"]:
            raise DataError(
                f"{dataset.tokenizer} is another tokenizer than the one that made the dataset; "
                "prepare the data again"
            )


def _named_dataset(command: PrepareCommand) -> Path:
    from gptlab.data.shards import is_dataset

    if len(command.sources) != 1:
        raise ConfigError(
            f"there are {len(command.sources)} sources, but --check, --verify and --export_bin "
            "take one: the folder of a dataset"
        )
    dataset = Path(command.sources[0])
    if not is_dataset(dataset):
        raise ConfigError(
            f"{dataset} is no dataset, as --check, --verify and --export_bin take; name its "
            "folder, or write --output to prepare one"
        )
    return dataset


def _prepare(command: PrepareCommand) -> "PrepareResult | None":
    """The result; None if Ctrl-C cut it off."""
    from gptlab.data.preparation import prepare
    from gptlab.data.preparation.journal import unfinished_folder

    if command.check and not command.dev_size:
        raise ConfigError("--check needs a part that is held out; write --dev_size too")
    if command.split == "random-windows":
        warnings.warn(_RANDOM_WINDOWS, stacklevel=1)
    start = time.perf_counter()
    given = command.model_fields_set & PrepareConfig.model_fields.keys()
    try:
        result = prepare(PrepareConfig(**{name: getattr(command, name) for name in given}))
    except KeyboardInterrupt:
        unfinished = unfinished_folder(Path(str(command.output)))
        if not unfinished.exists():
            raise
        print(
            f"stopped; the same command goes on with what is in {unfinished}",
            file=sys.stderr,
        )
        return None
    if not command.quiet:
        print(_summary(result, seconds=time.perf_counter() - start))
    return result


def _summary(result: "PrepareResult", *, seconds: float) -> str:
    report = result.report
    kept = report.read_documents - sum(report.left_out.values())
    lines = [f"{result.path}: {kept:,} of {report.read_documents:,} documents"]
    for part, tokens in report.tokens.items():
        if part in report.conversations:
            lines.append(_packed(part, report))
            continue
        windows = report.windows[part]
        cut = "" if windows is None else f"{windows:,} windows in "
        lines.append(
            f"  {part:5}  {cut}{tokens:,} tokens of {report.documents[part]:,} documents, "
            f"{_size(report.bytes[part])}"
        )
    for name, count in report.control_tokens.items():
        lines.append(f"  {name} in front of {count:,} documents")
    for reason, count in report.left_out.items():
        lines.append(f"  left out: {count:,} {reason}{_CONSEQUENCES.get(reason, '')}")
    if report.left_out:
        lines.append(f"  named in {result.path / 'rejects.jsonl'}")
    rate = f"{_size(report.read_bytes)} in {seconds:,.1f} s"
    if result.resumed:
        lines.append(f"  {rate}, some of it before the former preparation was cut off")
    else:
        lines.append(f"  {rate}: {_size(report.read_bytes / seconds)}/s")
    lines.append(f"now: gptlab-train --train_data {result.path}")
    return "\n".join(lines)


def _packed(part: str, report: "Report") -> str:
    """What became of the conversations of a part."""
    packing = report.conversations[part]
    tokens, count = report.tokens[part], report.documents[part]
    line = (
        f"  {part:5}  {count:,} conversations, {tokens:,} tokens, {packing.targets:,} of them the "
        f"assistant's ({packing.targets / max(tokens, 1):.0%}), in {packing.windows:,} windows, "
        f"{packing.filled:.1%} full"
    )
    return line + (f"; {packing.num_cut:,} cut, being longer" if packing.num_cut else "")


def _size(count: float) -> str:
    """A number of bytes in a unit that shows it: MB, or kB for less than one."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


if __name__ == "__main__":
    main()
