"""gptlab-inspect: what a model makes of a text, token by token and head by head."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import PositiveInt, model_validator

from gptlab.cli.eval_output import table
from gptlab.cli.flags import CommandLine
from gptlab.cli.inspect_output import rows_of
from gptlab.cli.main import run
from gptlab.cli.prompt import read_prompt
from gptlab.config.settings import Source
from gptlab.config.training import Precision
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.evaluation import Subject

_PAGE = "loss.html"


class InspectCommand(CommandLine):
    """Show how a model predicts each token of a text, and where its heads look.

    MODEL is a run, its newest checkpoint then, or a checkpoint folder; two are shown side by side.
    Without a text, the beginning of what the first one's run was evaluated on is read.
    """

    positional: ClassVar[str | None] = "model"

    model: tuple[Source, ...] = ()
    """One or two: runs, by name or by folder, or checkpoints; RUN/best is a run's best."""
    text: Source | None = None
    """The text to read."""
    text_file: Source | None = None
    """A file with the text, or - for standard input."""
    max_tokens: PositiveInt = 64
    """Tokens on each side of a picture of attention; the page has all."""
    output: Source | None = None
    """Folder for what is written; 'inspect' in the run or beside the checkpoint if not given."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of matrix products."""
    runs_dir: str = "runs"
    """Where to look for a run that is given by name."""

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.text is not None and self.text_file is not None:
            raise ConfigError("--text and --text_file exclude each other; write one of them")
        return self


def main() -> None:
    """Entry point of the command."""
    run(_inspect, InspectCommand, prog="gptlab-inspect")


def _inspect(command: InspectCommand) -> None:
    if not 1 <= len(command.model) <= 2:
        raise ConfigError(
            f"it takes one model or two to inspect, not {len(command.model)}; name a run or a "
            "checkpoint, as in gptlab-inspect runs/NAME"
        )
    text = command.text
    if command.text_file is not None:
        text = read_prompt(command.text_file, flag="text")
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.evaluation.loss_page import loss_page
    from gptlab.evaluation.own_folder import new_folder, require_own
    from gptlab.evaluation.reading import beginning_of_held_out, read_text

    if command.output is not None:
        require_own(Path(command.output))
    subjects = _subjects(command)
    first = next(iter(subjects.values()))
    output = Path(command.output) if command.output else first.folder.parent / "inspect"
    require_own(output)
    if text is None:
        text = beginning_of_held_out(first, runs_dir=command.runs_dir)
    readings = {name: [read_text(subject, text)] for name, subject in subjects.items()}
    with new_folder(output) as folder:
        page = loss_page(readings, title=" beside ".join(subjects))
        (folder / _PAGE).write_text(page, encoding="utf-8")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    print("\n\n".join(table(rows_of(name, own)) for name, own in readings.items()))
    print(f"\nwritten to {output}: {', '.join(files)}")


def _subjects(command: InspectCommand) -> "dict[str, Subject]":
    """The models by what they are called: as given, or by their folders if that is the same."""
    from gptlab.checkpoint import named_model
    from gptlab.evaluation import open_subject

    opened = [
        open_subject(
            named_model(name, command.runs_dir), device=command.device, precision=command.precision
        )
        for name in command.model
    ]
    folders = [str(subject.folder) for subject in opened]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"both are {folders[0]}; give two different models")
    return dict(zip(folders, opened, strict=True))


if __name__ == "__main__":
    main()
