"""Which flags of gptlab-eval are for which kind of model."""

from typing import TYPE_CHECKING

from gptlab.cli.eval_pairs import PairChoice
from gptlab.cli.flags import CommandLine
from gptlab.config.transformer import Architecture
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.cli.eval import EvalCommand

_OF_WRITERS = (
    "allow_execution",
    "completion",
    "humaneval",
    "k",
    "lines",
    "samples",
    "samples_only",
    "seed",
    "temperature",
    "timeout",
    "top_p",
    "workers",
)


def require_fitting(command: "EvalCommand", architecture: Architecture) -> None:
    """Refuse flags that are for another kind of model, or of which nothing would come.

    Raises:
        ConfigError: One is given.
    """
    given = command.model_fields_set
    if architecture == "transformer":
        refused = dict.fromkeys(("field", *_OF_WRITERS), "texts, and {} is a Transformer")
    else:
        of_pairs = sorted(PairChoice.model_fields.keys() - CommandLine.model_fields.keys())
        refused = dict.fromkeys(of_pairs, "pairs, and {} is none")
    if architecture == "encoder":
        writing = ("max_new_tokens", *_OF_WRITERS)
        refused |= dict.fromkeys(writing, "a model that writes, and {} is an encoder")
    for name, what in refused.items():
        if name in given:
            raise ConfigError(f"--{name} is for {what.format(command.model[0])}; leave it out")
    if "field" in given and not command.data:
        raise ConfigError(
            f"--field is {command.field}, but no file is named that has it; write --data too, or "
            "leave it out"
        )
    if "max_new_tokens" in given and not (
        command.completion or command.humaneval or command.is_writing
    ):
        how = "--translations" if architecture == "transformer" else "--completion or --humaneval"
        raise ConfigError(
            f"--max_new_tokens is {command.max_new_tokens}, but nothing is to be written; write "
            f"{how} too, or leave it out"
        )
