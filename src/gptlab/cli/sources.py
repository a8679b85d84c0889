"""The sources that a command turns into targets, and which flags are for which kind of model."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple

from pydantic import PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.prompt import STANDARD_INPUT, read_prompt
from gptlab.config.settings import Source
from gptlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptlab.generation import Generator
    from gptlab.model import Network

_OF_SOURCES = ("source", "source_file", "batch_size")
_REMEDIES = {"prompt": "write --source instead", "prompt_file": "write --source_file instead"}
_OF_PROMPTS = (
    *_REMEDIES,
    "chat",
    "system",
    "chat_template",
    "draft_model",
    "prompt_lookup",
    "draft_length",
    "stop_at_function",
    "overflow",
)


class GivenSource(NamedTuple):
    """A text to turn into its target."""

    place: str
    """Where it was given, for messages."""
    text: str


class SourceChoice(CommandLine):
    """The flags of what an encoder-decoder reads."""

    source: tuple[str, ...] = ()
    """For an encoder-decoder: texts to turn into their targets; of several, each is a line."""
    source_file: Source | None = None
    """File with a source on each line; - reads standard input."""
    batch_size: PositiveInt = 32
    """Sources to read at once; they do not change each other's targets."""

    def check_sources(self, given: AbstractSet[str]) -> None:
        """See that the flags `given` go together.

        Raises:
            ConfigError: They do not.
        """
        of_sources = [name for name in _OF_SOURCES[:2] if name in given]
        if len(of_sources) > 1:
            raise ConfigError("--source and --source_file exclude each other; write one of them")
        if of_sources and (of_prompts := [name for name in _OF_PROMPTS if name in given]):
            raise ConfigError(
                f"--{of_sources[0]} is for encoder-decoders, and --{of_prompts[0]} for GPTs; leave "
                "one of them out"
            )
        if of_sources and "interactive" in given:
            raise ConfigError(
                f"a session reads its sources line by line; leave out --{of_sources[0]}, or "
                "--interactive"
            )

    def check_model(self, model: "Network", given: AbstractSet[str]) -> bool:
        """See that the flags `given` are for such a model; whether it turns sources into targets.

        Raises:
            ConfigError: They are not, or no source is given.
        """
        from gptlab.model import GPT, Transformer

        if not isinstance(model, Transformer):
            # What is neither is refused by the generator.
            if isinstance(model, GPT) and (
                names := [name for name in _OF_SOURCES if name in given]
            ):
                raise ConfigError(
                    f"--{names[0]} is for encoder-decoders, but the model is a GPT; "
                    + ("leave it out" if names[0] == "batch_size" else "write --prompt instead")
                )
            return False
        if names := [name for name in _OF_PROMPTS if name in given]:
            raise ConfigError(
                f"--{names[0]} is for GPTs, but the model turns sources into targets; "
                f"{_REMEDIES.get(names[0], 'leave it out')}"
            )
        if not given & {"source", "source_file", "interactive"}:
            raise ConfigError(
                'the model turns sources into targets; write --source "...", or --source_file FILE'
            )
        return True

    def sources(self) -> list[GivenSource]:
        """What is to be turned into targets.

        Raises:
            DataError: There is no such file, it is no text, or a source is blank.
        """
        if self.source_file is None:
            found = _numbered("--source", self.source)
        else:
            name = self.source_file
            lines = _lines(read_prompt(name, flag="source"))
            shown = "standard input" if name == STANDARD_INPUT else name
            found = [
                GivenSource(f"{shown}, line {number}", line)
                for number, line in enumerate(lines, start=1)
            ]
        for place, text in found:
            if not text.strip():
                raise DataError(f"{place}: the source is blank; write a text, or leave it out")
        return found


def check_readable(generator: "Generator", source: GivenSource) -> int:
    """See that the model can read a source; how many tokens it has.

    Raises:
        ConfigError: It is too long.
    """
    from gptlab.generation.batch import check_source
    from gptlab.model import Transformer

    assert isinstance(generator.model, Transformer)
    ids = generator.encode_prompt(source.text)
    try:
        check_source(generator.model, ids)
    except ConfigError as error:
        raise ConfigError(f"{source.place}: {error}") from None
    return len(ids)


def _numbered(flag: str, texts: Sequence[str]) -> list[GivenSource]:
    if len(texts) == 1:
        return [GivenSource(flag, texts[0])]
    return [
        GivenSource(f"{flag}, text {number}", text) for number, text in enumerate(texts, start=1)
    ]


def _lines(text: str) -> list[str]:
    # Lines end as in a file that is opened as a text, and nowhere else.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff").removesuffix("\n").split("\n")
