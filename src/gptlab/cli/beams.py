"""The flags of beam search."""

from collections.abc import Set as AbstractSet
from typing import Annotated

from pydantic import Field, PositiveInt

from gptlab.cli.draft import DraftChoice
from gptlab.cli.flags import CommandLine
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.errors import ConfigError

_OF_DRAWING = {*SamplingFlags.model_fields, *DraftChoice.model_fields} - {"length"}
_EXCLUDED = (_OF_DRAWING - {*CommandLine.model_fields}) | {
    "chat",
    "compile",
    "interactive",
    "num_samples",
    "batch_size",
}


class BeamChoice(CommandLine):
    """The flags that have a text searched for."""

    num_beams: PositiveInt | None = None
    """Search for the likeliest text with so many beams, in place of drawing one."""
    length_penalty: Annotated[float, Field(ge=-10.0, le=10.0)] = 1.0
    """What beams are ranked by: log-probability / length ** length_penalty; above 0 favours longer
    texts, below 0 shorter ones."""

    def check_beams(self, given: AbstractSet[str]) -> None:
        """See that no flag among those `given` is of no effect.

        Raises:
            ConfigError: One is.
        """
        if self.num_beams is None:
            if "length_penalty" in given:
                raise ConfigError(
                    f"--length_penalty is {self.length_penalty}, but it ranks beams; write "
                    "--num_beams too, or leave it out"
                )
            return
        if others := sorted(_EXCLUDED & given):
            raise ConfigError(
                f"--num_beams is {self.num_beams}, but beam search finds one text and draws none; "
                f"leave out --{others[0]}"
            )
