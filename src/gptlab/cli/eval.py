"""gptlab-eval: how good a trained model is: on a text, at its lines, at programs, or on pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from gptlab.cli.eval_figures import masked_figures, program_figures, text_figures
from gptlab.cli.eval_flags import require_fitting
from gptlab.cli.eval_output import save, table
from gptlab.cli.eval_pairs import PairChoice, pair_figures, write_targets
from gptlab.cli.main import run
from gptlab.cli.output_file import check_file
from gptlab.config.sampling import Probability
from gptlab.config.settings import Seed, Source
from gptlab.config.training import Precision
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.evaluation import Problem
    from gptlab.evaluation.inspected import Inspected


class EvalCommand(PairChoice):
    """Measure a trained model: its loss on a text, the lines it writes, the problems it solves.

    MODEL is a run, its newest checkpoint then, or a checkpoint folder. Without another mode, the
    loss is measured on --data, or on the evaluation text of the model's run; of an encoder, that of
    tokens which are hidden from it; of a Transformer, on pairs of sources and targets.
    """

    positional: ClassVar[str | None] = "model"

    model: tuple[Source, ...] = ()
    """The run, by name or by folder, or a checkpoint; RUN/best is a run's best."""
    data: tuple[Source, ...] = ()
    """Texts, folders of texts, prepared datasets, or pairs; what the run was evaluated on if not
    given."""
    field: Source = "text"
    """The key or the column that holds the text, where a file has rows."""
    completion: bool = False
    """Also say how many next lines the model writes exactly."""
    lines: PositiveInt = 200
    """Lines to draw from the text for --completion."""
    humaneval: Source | None = None
    """Instead of a text, a file of programming problems, as JSON lines in HumanEval's format."""
    samples: PositiveInt = 10
    """Programs to write for each problem."""
    k: tuple[PositiveInt, ...] = ()
    """For which k to give pass@k; 1, 10 and 100 if not given, up to --samples."""
    temperature: NonNegativeFloat = 0.8
    """Of the samples; 0 always takes the likeliest token."""
    top_p: Probability = 0.95
    """Draw from the smallest set of tokens that holds this much probability."""
    max_new_tokens: PositiveInt | None = None
    """Tokens to write at most; 128 for a line, 256 for a program, as many as the model has room for
    of a target if not given."""
    allow_execution: bool = False
    """Run the programs that the model writes, on this machine and as this user."""
    samples_only: Source | None = None
    """Instead of running the programs, write them to this file, as JSON lines."""
    timeout: PositiveFloat = 5.0
    """Seconds for each program."""
    workers: PositiveInt | None = None
    """Programs to run at a time; one a core if not given."""
    seed: Seed = 0
    """Of the lines and of the samples."""
    batch_size: PositiveInt = 10
    """Windows to read, or texts to write, at once; 64 pairs if not given."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    precision: Precision = "auto"
    """Arithmetic of matrix products."""
    runs_dir: str = "runs"
    """Where to look for a run that is given by name, and to keep encoded texts."""
    output: Source | None = None
    """File to which all figures are written as JSON; one that is there is replaced."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.check_pairs(self.model_fields_set)
        if self.humaneval is None:
            for name in ("allow_execution", "samples_only", "k", "samples"):
                if name in self.model_fields_set and getattr(self, name):
                    raise ConfigError(f"--{name} is for programs; write --humaneval FILE with it")
            return self
        if self.completion or self.data:
            other = "completion" if self.completion else "data"
            raise ConfigError(f"--humaneval brings its own problems; leave --{other} out")
        if self.allow_execution and self.samples_only:
            raise ConfigError(
                "--allow_execution and --samples_only exclude each other; write one of them"
            )
        if not self.allow_execution and not self.samples_only:
            raise ConfigError(
                "--humaneval runs programs that a model wrote, limited in resources but in no "
                "sandbox; write --allow_execution for that, or --samples_only FILE to run them "
                "elsewhere"
            )
        too_large = [k for k in self.k if k > self.samples]
        if too_large:
            raise ConfigError(
                f"k is {too_large[0]}, but there are {self.samples} samples of a problem; write "
                f"--samples {too_large[0]} or more"
            )
        return self


def main() -> None:
    """Entry point of the command."""
    run(_evaluate, EvalCommand, prog="gptlab-eval")


def _evaluate(command: EvalCommand) -> None:
    if len(command.model) != 1:
        raise ConfigError(
            f"it takes one model to evaluate, not {len(command.model)}; name a run or a "
            "checkpoint, as in gptlab-eval runs/NAME"
        )
    read = [*command.data, *command.target_data, *filter(None, [command.humaneval])]
    for name in ("output", "samples_only", "write"):
        if file := getattr(command, name):
            check_file(Path(file), flag=name, read=read)
            if name != "output" and command.output and Path(file) == Path(command.output):
                raise ConfigError(
                    f"--{name} and --output are both {file}, which would lose one of them; choose "
                    "another file"
                )
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.checkpoint import named_model
    from gptlab.evaluation import read_problems
    from gptlab.evaluation.inspected import open_any

    # Before the model is loaded, for that takes longer.
    problems = None if command.humaneval is None else read_problems(command.humaneval)
    found = open_any(
        named_model(command.model[0], command.runs_dir),
        device=command.device,
        precision=command.precision,
    )
    figures: dict[str, Any] = {"model": str(found.folder)}
    rows = [("model", str(found.folder))]
    more = _measured(command, found, problems)
    targets = more.pop("targets", None)
    print(table(rows + more.pop("rows")))
    if command.write is not None:
        write_targets(Path(command.write), targets)
    if command.output is not None:
        save(Path(command.output), figures | more)
        print(f"in numbers: {command.output}")


def _measured(
    command: EvalCommand, found: "Inspected", problems: "list[Problem] | None"
) -> dict[str, Any]:
    """Figures of what the flags and the model's kind ask for, and the rows of their table."""
    from gptlab.evaluation.held_out import as_subject

    architecture = found.model.architecture
    require_fitting(command, architecture)
    if architecture == "encoder":
        return masked_figures(command, found)
    if architecture == "transformer":
        return pair_figures(
            command,
            found,
            data=command.data,
            batch_size=command.batch_size if "batch_size" in command.model_fields_set else None,
            max_new_tokens=command.max_new_tokens,
        )
    subject = as_subject(found)
    if problems is None:
        return text_figures(command, subject)
    return program_figures(command, subject, problems)


if __name__ == "__main__":
    main()
