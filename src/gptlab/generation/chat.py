"""A conversation with a model: what is read of it, and what of its answer is text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gptlab.checkpoint import find_checkpoint
from gptlab.corpus.conversations import SYSTEM, USER, Conversation, Message, messages_of
from gptlab.errors import CheckpointError, ConfigError
from gptlab.tokenizer.chat import ChatEncoder, ChatTemplate, template_in

Messages = Sequence[Message | Mapping[str, str]]
"""As in [{"role": "user", "content": "Hi"}]."""


def template_beside(path: str | Path) -> ChatTemplate | None:
    """The template that was saved with the model at `path`, a run or a folder; None without one.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        folder = find_checkpoint(path)
    except CheckpointError:
        folder = Path(path)
    return template_in(folder)


def open_messages(messages: Messages) -> Conversation:
    """The messages, the last of which is not the assistant's.

    Raises:
        DataError: They are no messages.
        ConfigError: The last one is the assistant's or the system's.
    """
    conversation = messages_of(list(messages))
    if conversation[-1].role != USER:
        raise ConfigError(
            f"the last message is the {conversation[-1].role}'s, so there is nothing to answer; "
            "end with a user's"
        )
    return conversation


def fitted(
    conversation: Conversation, encoder: ChatEncoder, *, room: int
) -> tuple[list[int], Conversation]:
    """A prompt of at most `room` ids, and the messages that it has.

    The oldest turns are left out, each up to the user's next, but never the system's message nor
    the last one, even if these alone are longer.
    """
    system = conversation[: conversation[0].role == SYSTEM]
    turns = conversation[len(system) :]
    while True:
        ids = encoder.prompt((*system, *turns))
        later = [place for place in range(1, len(turns)) if turns[place].role == USER]
        if len(ids) <= room or not later:
            return ids, (*system, *turns)
        turns = turns[later[0] :]


def answer_text(pieces: Iterable[str], template: ChatTemplate) -> Iterator[str]:
    """What the model writes without the blanks that its template puts around a content."""
    begun, held = not template.lead, ""
    for piece in pieces:
        held += piece
        if not begun:
            if len(held) < len(template.lead) and template.lead.startswith(held):
                continue
            begun, held = True, held.removeprefix(template.lead)
        border = len(held) - len(template.tail)
        if border > 0:
            yield held[:border]
            held = held[border:]
    if rest := held.removesuffix(template.tail) if begun else "":
        yield rest
