"""gptlab-inspect: what a model makes of a text, token by token and head by head."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from gptlab.cli.flags import CommandLine
from gptlab.cli.inspect_output import report
from gptlab.cli.main import run
from gptlab.cli.prompt import read_prompt
from gptlab.config.settings import Source
from gptlab.config.training import Precision
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.evaluation.inspected import Inspected
    from gptlab.evaluation.inspection import Findings

_FOLDER = "inspect"
_FEW = 8


class InspectCommand(CommandLine):
    """Show how a model predicts each token of a text, and where its heads look.

    MODEL is a run, its newest checkpoint then, or a checkpoint folder; two are shown side by side.
    A GPT or an encoder reads --text, an encoder-decoder --source; without these, the beginning of
    what the first model's run was evaluated on.
    """

    positional: ClassVar[str | None] = "model"

    model: tuple[Source, ...] = ()
    """One or two: runs, by name or by folder, or checkpoints; RUN/best is a run's best."""
    text: Source | None = None
    """The text to read."""
    text_file: Source | None = None
    """A file with the text, or - for standard input."""
    source: tuple[Source, ...] = ()
    """For an encoder-decoder: one source or several."""
    target: tuple[Source, ...] = ()
    """The target of each source; what the model makes of them if not given."""
    max_tokens: Annotated[int, Field(ge=0, le=256)] = 64
    """Tokens on each side of a picture of attention, 256 at most; 0 draws none."""
    output: Source | None = None
    """Folder for what is written; 'inspect' in the run or beside the checkpoint if not given."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of matrix products."""
    runs_dir: str = "runs"
    """Where to look for a run that is given by name."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [name for name in ("text", "text_file", "source") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(
                f"--{given[0]} and --{given[1]} exclude each other; write one of them"
            )
        if self.target and len(self.target) != len(self.source):
            raise ConfigError(
                f"--source has {len(self.source)} text(s), but --target has {len(self.target)}; "
                "give a target for each source, or none"
            )
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
    from gptlab.evaluation.inspection import write_findings
    from gptlab.evaluation.own_folder import new_folder, require_own

    if command.output is not None:
        require_own(Path(command.output))
    models = _models(command)
    first = next(iter(models.values()))
    output = Path(command.output) if command.output else first.folder.parent / _FOLDER
    require_own(output)
    findings = _findings(command, models, text)
    with new_folder(output) as folder:
        files = write_findings(folder, findings)
    more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
    print(f"{report(findings)}\n\nwritten to {output}: {', '.join(files[:_FEW])}{more}")


def _models(command: InspectCommand) -> "dict[str, Inspected]":
    """The models by the names of their folders.

    Raises:
        ConfigError: They are one, or do not read the same.
    """
    from gptlab.checkpoint import named_model
    from gptlab.evaluation.inspected import open_any

    opened = [
        open_any(
            named_model(name, command.runs_dir), device=command.device, precision=command.precision
        )
        for name in command.model
    ]
    models = {str(one.folder): one for one in opened}
    if len(models) < len(opened):
        raise ConfigError(f"both are {opened[0].folder}; give two different models")
    if len({one.model.architecture for one in opened}) > 1:
        kinds = [f"{one.folder} is of architecture {one.model.architecture}" for one in opened]
        raise ConfigError(f"{', '.join(kinds)}; they read different things, so inspect each alone")
    return models


def _findings(
    command: InspectCommand, models: "dict[str, Inspected]", text: str | None
) -> "dict[str, list[Findings]]":
    """What each model makes of what the flags say, or of the beginning of its held-out text."""
    from gptlab.evaluation.inspection import inspect_pair, inspect_text
    from gptlab.evaluation.text_reading import beginning_of_held_out
    from gptlab.model import Transformer

    most, first = command.max_tokens, next(iter(models.values()))
    if isinstance(first.model, Transformer):
        if text is not None:
            raise ConfigError(
                f'{first.folder} is an encoder-decoder, which reads a source; write --source "..."'
            )
        pairs = _pairs(command, first)
        return {
            name: [inspect_pair(model, *pair, most=most) for pair in pairs]
            for name, model in models.items()
        }
    if command.source:
        raise ConfigError(
            f"{first.folder} is of architecture {first.model.architecture}, which has no sources; "
            'write --text "..."'
        )
    read = beginning_of_held_out(first) if text is None else text
    return {name: [inspect_text(model, read, most=most)] for name, model in models.items()}


def _pairs(command: InspectCommand, first: "Inspected") -> list[tuple[str, str | None]]:
    """The sources that the flags name and their targets, if they have some; or those held out."""
    from gptlab.evaluation.pair_reading import first_held_out

    if not command.source:
        return [(pair.source, pair.target) for pair in first_held_out(first)]
    targets = command.target or (None,) * len(command.source)
    return list(zip(command.source, targets, strict=True))


if __name__ == "__main__":
    main()
