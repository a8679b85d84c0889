"""A session that is a conversation: a user and an assistant speak in turns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.session_settings import SessionSettings
from gptlab.errors import GptlabError

if TYPE_CHECKING:
    from gptlab.corpus.conversations import Conversation
    from gptlab.generation import Generator


class ChatSession(SessionSettings):
    """The messages so far, the settings of the answers, and what can be undone.

    Args:
        generator: Answers; it has a chat template.
        flags: The settings to begin with.
        system: What the system says before all else.

    Raises:
        GptlabError: There is no chat template, or it does not fit the tokenizer.
    """

    about = "A line is said to the assistant, which answers. The conversation is its memory."
    emptied = "the conversation is empty"

    def __init__(
        self, generator: "Generator", flags: SamplingFlags, *, system: str | None = None
    ) -> None:
        from gptlab.corpus.conversations import SYSTEM, Message

        super().__init__(flags)
        self._generator = generator
        self._encoder = generator.chat_encoder()
        self._start: Conversation = () if system is None else (Message(SYSTEM, system),)
        self.messages: Conversation = self._start
        """What has been said."""
        self._earlier: list[Conversation] = []
        self._has_said_overflow = False

    @property
    def text(self) -> str:
        """The conversation as it can be read, with a role in front of each message."""
        return "".join(f"{message.role}: {message.content}\n" for message in self.messages)

    def go_on(self, entry: str) -> Iterator[str]:
        """Say `entry`, and yield the answer as it comes; an empty entry says nothing.

        Whoever stops reading keeps what was read. An error takes the entry back.
        """
        from gptlab.corpus.conversations import ASSISTANT, USER, Message

        if not entry.strip():
            return
        before = self.messages
        self._earlier.append(before)
        asked = (*before, Message(USER, entry))
        answer = ""
        self.messages = (*asked, Message(ASSISTANT, answer))
        try:
            for piece in self._generator.stream_chat(asked, self.flags.sampling()):
                answer += piece
                self.messages = (*asked, Message(ASSISTANT, answer))
                yield piece
        except GptlabError:
            self.messages = self._earlier.pop()
            raise

    def undo(self) -> str | None:
        """Take the last exchange back, or a reset; returns what was said, None if nothing was."""
        if not self._earlier:
            return None
        now, self.messages = self.messages, self._earlier.pop()
        return "\n".join(message.content for message in now[len(self.messages) :])

    def reset(self) -> None:
        """Begin a new conversation; what it was can be had back by `undo`."""
        self._earlier.append(self.messages)
        self.messages = self._start

    def note_of_overflow(self) -> str | None:
        """Says, once, what becomes of a conversation that the model can't hold any longer."""
        from gptlab.generation.chat import fitted

        if self._has_said_overflow or self.messages == self._start:
            return None
        seq_len, length = self._generator.model.config.seq_len, self.flags.length
        asked = self.messages[:-1]
        prompt, kept = fitted(asked, self._encoder, room=seq_len - length)
        if len(kept) == len(asked) and len(prompt) + length <= seq_len:
            return None
        self._has_said_overflow = True
        what = "its oldest turns are left out"
        if len(prompt) + length > seq_len:
            what = "the model may lose the beginning of a turn"
        return f"note: the conversation outgrows the model's seq_len of {seq_len}: {what}"
