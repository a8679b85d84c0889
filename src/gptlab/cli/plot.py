"""gptlab-plot: curves of several runs in one picture."""

from pathlib import Path
from typing import ClassVar, Literal

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import run
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

_FEW = 10


class PlotCommand(CommandLine):
    """Draw one field of the metrics of several runs, as curves of one picture."""

    positional: ClassVar[str | None] = "runs"

    runs: tuple[Source, ...] = ()
    """Runs to draw, by name or by folder."""
    metric: Source = "loss"
    """Field of metrics.jsonl: loss, perplexity, gradient_norm, tokens_per_second, ..."""
    split: Literal["eval", "train"] = "eval"
    """Whether to draw what was measured at evaluations or in training."""
    over: Literal["step", "tokens", "epoch", "elapsed_seconds"] = "step"
    """What is counted from left to right."""
    output: Source = "curves.png"
    """The picture, as .png, .pdf or .svg; one that is there is replaced."""
    runs_dir: str = "runs"
    """Where to look for runs that are given by name."""
    quiet: bool = False
    """Print errors only."""


def main() -> None:
    """Entry point of the command."""
    run(_plot, PlotCommand, prog="gptlab-plot")


def _plot(command: PlotCommand) -> None:
    if not command.runs:
        raise ConfigError("there is no run to draw; name one or several, as in gptlab-plot a b")
    folders = [find_run(name, Path(command.runs_dir)) for name in command.runs]
    # Here, so that --help and a bad flag are answered without matplotlib and torch.
    from gptlab.training.plots import plot_runs

    output = Path(command.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_runs(folders, output, metric=command.metric, split=command.split, over=command.over)
    if not command.quiet:
        print(output)


def find_run(name: str, runs: Path) -> Path:
    """The folder of the run that `name` means: in `runs`, or where it says.

    Raises:
        ConfigError: There is no such folder.
    """
    for folder in (runs / name, Path(name)):
        if folder.is_dir():
            return folder
    known = known_runs(runs)
    raise ConfigError(f"there is no run '{name}', neither in {runs} nor as a folder{known}")


def known_runs(runs: Path) -> str:
    """The names in `runs`, as the end of a message; nothing where there are none."""
    there = sorted(path.name for path in runs.glob("[!.]*") if path.is_dir())
    known = f"; runs in {runs}: {', '.join(there[:_FEW])}" if there else ""
    return known + (f" and {len(there) - _FEW} more" if len(there) > _FEW else "")


if __name__ == "__main__":
    main()
