"""The flags of a conversation with a model, and what they make of it."""

import sys
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from gptlab.cli.load_model import ModelChoice, adapter_path, model_path
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.generation import Generator
    from gptlab.tokenizer.chat import ChatTemplate

_EXCLUDED = ("interactive", "num_samples", "stop_at_function")
_FLAGS = ("chat_template", "system")


class ChatChoice(ModelChoice):
    """The flags of a conversation."""

    chat: bool = False
    """Talk to an assistant: it answers --prompt, or line by line what you say; /help says more."""
    system: str | None = None
    """What the system's message tells the assistant."""
    chat_template: Source | None = None
    """How conversations are written, if not as saved with the model: chatml, llama2, llama3,
    zephyr, plain, a JSON file, or a model's folder."""

    def check_chat(self, given: AbstractSet[str]) -> None:
        """See that no flag among those `given` is for texts alone, or for conversations.

        Raises:
            ConfigError: One is.
        """
        if not self.chat:
            if needing := [name for name in _FLAGS if name in given]:
                raise ConfigError(f"--{needing[0]} is for conversations; write --chat too")
            return
        if others := [name for name in _EXCLUDED if name in given and getattr(self, name)]:
            raise ConfigError(
                f"--chat answers one prompt, or line by line without one; leave out --{others[0]}"
            )


def chat_template(choice: ChatChoice) -> "ChatTemplate | None":
    """The template that is named, or that of the adapters or the model; None where it has none."""
    from gptlab.generation.chat import template_beside
    from gptlab.tokenizer.chat import find_template

    if choice.chat_template is not None:
        return find_template(choice.chat_template)
    adapter = adapter_path(choice)
    of_adapter = None if adapter is None else template_beside(adapter)
    return of_adapter or template_beside(model_path(choice))


def converse(
    generator: "Generator", prompt: str, flags: SamplingFlags, *, system: str | None
) -> int:
    """Answer `prompt`, or, without one, talk until the user leaves; returns the exit code."""
    from gptlab.cli.chat_session import ChatSession
    from gptlab.cli.session_loop import talk

    session = ChatSession(generator, flags, system=system)
    if not prompt:
        return talk(session)
    try:
        for piece in session.go_on(prompt):
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    if note := session.note_of_overflow():
        print(note, file=sys.stderr)
    return 0
