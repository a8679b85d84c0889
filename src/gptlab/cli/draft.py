"""What proposes the tokens that a command's model checks, and loading it."""

from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import PositiveInt, model_validator

from gptlab.cli.flags import CommandLine
from gptlab.cli.load_model import ModelChoice, load_model
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.generation import Drafter
    from gptlab.generation.compiling import Compile


class DraftChoice(CommandLine):
    """The flags of speculative decoding."""

    draft_model: str | None = None
    """A smaller model of the same tokenizer, by run or checkpoint folder, which proposes tokens
    that the model checks several at a time."""
    prompt_lookup: PositiveInt | None = None
    """Propose what followed the last so many tokens where they came before; 3 is usual."""
    draft_length: PositiveInt = 4
    """Tokens to propose at a time."""

    @model_validator(mode="after")
    def _has_one_drafter(self) -> Self:
        if self.draft_model is not None and self.prompt_lookup is not None:
            raise ConfigError(
                "--draft_model and --prompt_lookup exclude each other; write one of them"
            )
        has_none = self.draft_model is None and self.prompt_lookup is None
        if has_none and "draft_length" in self.model_fields_set:
            raise ConfigError(
                f"--draft_length is {self.draft_length}, but nothing proposes tokens; write "
                "--draft_model or --prompt_lookup, or leave it out"
            )
        return self


def load_drafter(
    draft: DraftChoice, *, device: str, runs_dir: str, compile: "Compile"
) -> "Drafter | None":
    """What `draft` names, if anything; the others are as of the model's flags.

    Raises:
        CheckpointError: There is no such model, or it is damaged.
        ConfigError: It is a bare state dict.
    """
    from gptlab.generation import LookupDrafter, ModelDrafter
    from gptlab.interop.loading import require_gpt

    if draft.prompt_lookup is not None:
        return LookupDrafter(length=draft.prompt_lookup)
    if draft.draft_model is None:
        return None
    if Path(draft.draft_model).is_file():
        raise ConfigError(
            f"--draft_model is {draft.draft_model}, a file; name a run or a checkpoint folder"
        )
    choice = ModelChoice(model_path=draft.draft_model, device=device, runs_dir=runs_dir)
    return ModelDrafter(require_gpt(load_model(choice)[0], draft.draft_model), compile=compile)
