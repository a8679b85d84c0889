"""gptlab-generate: a prompt in and its continuation out, or a source and its target."""

import sys
from typing import TYPE_CHECKING, Self

from pydantic import PositiveInt, model_validator

from gptlab.cli.arithmetic import ArithmeticChoice, prepared
from gptlab.cli.beams import BeamChoice
from gptlab.cli.chat import ChatChoice, chat_template, converse
from gptlab.cli.draft import DraftChoice, load_drafter
from gptlab.cli.flags import CommandLine
from gptlab.cli.load_model import ModelChoice, load_model
from gptlab.cli.main import run
from gptlab.cli.prompt import STANDARD_INPUT, note_of_overflow, read_prompt
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.sources import SourceChoice
from gptlab.cli.targets import answer_sources
from gptlab.config import SamplingConfig
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.generation import Generator


class GenerateCommand(
    SamplingFlags,
    BeamChoice,
    SourceChoice,
    DraftChoice,
    ArithmeticChoice,
    ChatChoice,
    ModelChoice,
    CommandLine,
):
    """Continue a prompt with a trained model, or talk to one that was trained on conversations.

    With an encoder-decoder, turn a source into its target.
    """

    prompt: str = ""
    """Text to continue; without it the model begins a document."""
    prompt_file: Source | None = None
    """File whose text is the prompt, to the last character; - reads standard input."""
    allow_special: bool = False
    """Turn the names of special tokens in the prompt or the source into their ids, as in
    '<python>import'."""
    num_samples: PositiveInt = 1
    """Continuations of the prompt, or targets of each source."""
    interactive: bool = False
    """Go on line by line: each one is added to the text and continued, or is a source; /help says
    more."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.prompt_file is not None and "prompt" in self.model_fields_set:
            raise ConfigError("--prompt and --prompt_file exclude each other; write one of them")
        if self.interactive and self.num_samples > 1:
            raise ConfigError(
                f"--num_samples is {self.num_samples}, but a session goes on with one text; leave "
                "it out, or --interactive"
            )
        self.check_beams(self.model_fields_set)
        self.check_sources(self.model_fields_set)
        self.check_chat(self.model_fields_set)
        if self.interactive and self.prompt_file == STANDARD_INPUT:
            raise ConfigError(
                "--prompt_file - reads all of standard input, where --interactive reads its "
                "lines; name a file"
            )
        return self


def main() -> None:
    """Entry point of the command."""
    run(_generate, GenerateCommand, prog="gptlab-generate")


def _generate(command: GenerateCommand) -> int:
    config = command.sampling()
    prompt = command.prompt if command.prompt_file is None else read_prompt(command.prompt_file)
    sources = command.sources()
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.generation import Generator

    model, tokenizer = load_model(command)
    makes_targets = command.check_model(model, command.model_fields_set)
    generator = Generator(
        prepared(model, command),
        tokenizer,
        compile=command.compile,
        drafter=load_drafter(
            command, device=command.device, runs_dir=command.runs_dir, compile=command.compile
        ),
        draft_length=command.draft_length,
        chat_template=chat_template(command) if command.chat else None,
        allow_special=command.allow_special,
    )
    if makes_targets:
        return answer_sources(
            generator,
            sources,
            command.part(SamplingFlags),
            beams=command,
            choice=command,
            copies=command.num_samples,
            is_session=command.interactive,
        )
    code = _write(generator, prompt, config, command)
    if generator.acceptance is not None:
        print(generator.acceptance, file=sys.stderr)
    return code


def _write(
    generator: "Generator", prompt: str, config: SamplingConfig, command: GenerateCommand
) -> int:
    if command.chat:
        return converse(generator, prompt, command.part(SamplingFlags), system=command.system)
    if command.interactive:
        from gptlab.cli.session import Session
        from gptlab.cli.session_loop import talk

        return talk(Session(generator, command.part(SamplingFlags), text=prompt))
    if command.num_beams is not None:
        found = generator.beam_search(
            prompt,
            beams=command.num_beams,
            max_new_tokens=command.length,
            length_penalty=command.length_penalty,
        )
        print(f"{prompt}{found[0].text}")
        return 0
    if note := note_of_overflow(generator, prompt, config):
        print(note, file=sys.stderr)
    if command.num_samples == 1:
        _print_stream(generator, prompt, config, stop_at_function=command.stop_at_function)
    else:
        _print_samples(generator, prompt, config, command)
    return 0


def _print_stream(
    generator: "Generator", prompt: str, config: SamplingConfig, *, stop_at_function: bool
) -> None:
    from gptlab.generation.code_blocks import until_block_ends

    pieces = generator.stream(prompt, config)
    print(prompt, end="", flush=True)
    try:
        for piece in until_block_ends(prompt, pieces) if stop_at_function else pieces:
            print(piece, end="", flush=True)
    finally:
        # What there is of it stays, as a line, if it is interrupted.
        print(flush=True)


def _print_samples(
    generator: "Generator", prompt: str, config: SamplingConfig, command: GenerateCommand
) -> None:
    from gptlab.generation.code_blocks import until_block_ends

    texts = generator.generate([prompt] * command.num_samples, config)
    for number, text in enumerate(texts, start=1):
        cut = "".join(until_block_ends(prompt, [text])) if command.stop_at_function else text
        print(f"--- {number}\n{prompt}{cut}")


if __name__ == "__main__":
    main()
