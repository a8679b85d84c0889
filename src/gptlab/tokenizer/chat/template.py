"""A chat template as data: what stands around each message of a conversation.

    start  system.before CONTENT system.after  user.before CONTENT user.after  ...
           assistant.before CONTENT assistant.after

`{bos}` and `{eos}` in a template stand for the tokenizer's own tokens that begin and end a text.
What `special_tokens` names is a token wherever the template has it, and never in a content.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import model_validator

from gptlab.config import Settings
from gptlab.corpus.conversations import SYSTEM, USER, Conversation, Message
from gptlab.errors import ConfigError
from gptlab.tokenizer.files import to_json, write_files

TEMPLATE_FILE = "chat_template.json"
BOS, EOS = "{bos}", "{eos}"
_ROLES = (BOS, EOS)


class Turn(Settings):
    """What stands around a content."""

    before: str = ""
    """Text in front of it."""
    after: str = ""
    """Text behind it."""


class ChatTemplate(Settings):
    """How a conversation is written as one text.

    Raises:
        ConfigError: Its parts do not fit each other.
    """

    name: str
    """What it is called."""
    start: str = ""
    """What a conversation begins with."""
    system: Turn
    """Around the system's message."""
    user: Turn
    """Around a user's message."""
    user_after_system: Turn | None = None
    """Around a user's message that follows the system's, where that is another one."""
    assistant: Turn
    """Around an assistant's message."""
    generation_prompt: str
    """What the model goes on from; the rest of `assistant.before`, blanks at most, is its own."""
    end: str
    """The token in `assistant.after` that ends the assistant's turn: a special one, or {eos}."""
    special_tokens: tuple[str, ...] = ()
    """Names of the tokens that the template needs in the vocabulary."""
    strip: bool = False
    """Whether blanks around each content are left out."""
    default_system: str | None = None
    """What the system says where a conversation has no such message."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lead = self.assistant.before.removeprefix(self.generation_prompt)
        if not self.assistant.before.startswith(self.generation_prompt) or lead.strip():
            raise ConfigError(
                f"generation_prompt is {self.generation_prompt!r}, but assistant.before "
                f"{self.assistant.before!r} has to be that, with blanks behind it at most"
            )
        if self.end != EOS and self.end not in self.special_tokens:
            raise ConfigError(
                f"end is {self.end!r}, but it has to be {EOS} or one of special_tokens"
            )
        if self.end not in self.assistant.after:
            raise ConfigError(
                f"end is {self.end!r}, but assistant.after is {self.assistant.after!r}; it has to "
                "have it"
            )
        if "" in self.special_tokens:
            raise ConfigError("special_tokens has an empty name; leave it out")
        return self

    @property
    def lead(self) -> str:
        """Blanks that the model writes in front of a content."""
        return self.assistant.before.removeprefix(self.generation_prompt)

    @property
    def tail(self) -> str:
        """Text that the model writes between a content and the end of its turn."""
        return self.assistant.after.partition(self.end)[0]

    def fingerprint(self) -> str:
        """Hex digest of all of it."""
        return hashlib.sha256(to_json(self.model_dump(mode="json"))).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `chat_template.json` into `folder`.

        Raises:
            TokenizerError: It can't be written.
        """
        write_files(folder, {TEMPLATE_FILE: to_json(self.model_dump(mode="json"))})

    def turns(self, messages: Conversation) -> Iterator[tuple[Turn, Message]]:
        """Each message with what stands around it; first of all, the default system's."""
        if self.default_system is not None and messages[0].role != SYSTEM:
            messages = (Message(SYSTEM, self.default_system), *messages)
        former = ""
        for message in messages:
            turn: Turn = getattr(self, message.role)
            if self.user_after_system and (former, message.role) == (SYSTEM, USER):
                turn = self.user_after_system
            yield turn, message._replace(content=self._stripped(message.content))
            former = message.role

    def tokens_in(self, text: str) -> Iterator[tuple[str, bool]]:
        """The stretches of `text`, a part of the template, and whether each is a token's name."""
        longest_first = sorted({*_ROLES, *self.special_tokens}, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        for number, part in enumerate(re.split(f"({names})", text)):
            if part:
                yield part, number % 2 == 1

    def _stripped(self, content: str) -> str:
        return content.strip() if self.strip else content
