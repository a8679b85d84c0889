"""gptlab-compare: which of two recipes, or of two models, is better, and how sure that is."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from gptlab.cli.flags import CommandLine, parse
from gptlab.cli.main import INTERRUPTED, run
from gptlab.cli.output_file import check_file
from gptlab.cli.plot import find_run
from gptlab.cli.train import TrainCommand
from gptlab.config import TrainConfig
from gptlab.config.settings import Source
from gptlab.config.training import Precision
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.evaluation import Comparison

_SETTINGS = "config.json"
# What the comparison decides.
_OWN = {"experiment_name", "overwrite", "resume", "runs_dir", "seed"}


class CompareCommand(CommandLine):
    """Say which of two recipes or models has the lower evaluation loss, with an interval.

    With --seeds, A and B are files of settings for gptlab-train, or runs to repeat: both are
    trained with each seed, and compared seed by seed. Without it they are trained models, which are
    compared window by window on the evaluation text of A; two Transformers pair by pair, and two
    encoders by what is hidden from both.
    """

    positional: ClassVar[str | None] = "what"

    what: tuple[Source, ...] = ()
    """A and B: files of settings (.toml, .json) or runs."""
    seeds: PositiveInt | None = None
    """Runs of each to train, with seeds 0, 1, ...; finished ones are not trained again."""
    output: Source = "compare.json"
    """File to which the result is written as JSON; one that is there is replaced."""
    runs_dir: str = "runs"
    """Folder for the runs, and where to look for those that are given by name."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' is as the settings say, or a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic for comparing models; training has that of the settings."""
    verbose: bool = False
    """Show what each run prints while it trains."""


def main() -> None:
    """Entry point of the command."""
    run(_compare, CompareCommand, prog="gptlab-compare")


def _compare(command: CompareCommand) -> int:
    if len(command.what) != 2:
        raise ConfigError(
            f"it takes two to compare, not {len(command.what)}; write gptlab-compare A B, with "
            "--seeds 5 to train both"
        )
    check_file(Path(command.output), flag="output", read=command.what)
    comparison = _of_models(command) if command.seeds is None else _of_seeds(command)
    if comparison is None:
        return INTERRUPTED
    comparison.save(Path(command.output))
    print(f"{comparison.table()}\n{comparison.verdict}\nin numbers: {command.output}")
    return 0


def _of_models(command: CompareCommand) -> "Comparison":
    files = [path for path in command.what if Path(path).is_file()]
    if files:
        raise ConfigError(
            f"{files[0]} is a file of settings; write --seeds 5 to train what it says, or give runs"
        )
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.checkpoint import named_model
    from gptlab.evaluation import compare_models

    a, b = (named_model(name, command.runs_dir) for name in command.what)
    return compare_models(a, b, device=command.device, precision=command.precision)


def _of_seeds(command: CompareCommand) -> "Comparison | None":
    """The result; None if Ctrl-C cut it off."""
    a, b = (_settings_of(name, command) for name in command.what)
    from gptlab.evaluation import compare

    try:
        return compare(a, b, seeds=command.seeds or 0, say=print)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the runs there are", file=sys.stderr)
        return None


def _settings_of(name: str, command: CompareCommand) -> TrainConfig:
    """The settings to train by, from a file or from a run that has them."""
    path = Path(name)
    if path.is_file():
        title, file = path.stem, path
    else:
        folder = find_run(name, Path(command.runs_dir))
        title, file = folder.resolve().name, folder / _SETTINGS
    settings = parse(TrainCommand, ["--config", str(file)], prog="gptlab-train")
    given = settings.model_fields_set & TrainConfig.model_fields.keys()
    values = {name: getattr(settings, name) for name in given - _OWN}
    values |= {
        "experiment_name": re.sub(r"[^\w.+-]+", "_", title).lstrip(".+-") or "run",
        "runs_dir": command.runs_dir,
        "quiet": not command.verbose,
    }
    if "device" in command.model_fields_set:
        values["device"] = command.device
    return TrainConfig(**values)


if __name__ == "__main__":
    main()
