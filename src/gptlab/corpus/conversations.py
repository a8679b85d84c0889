"""Conversations as data: rows of JSON lines to messages.

A row is one of these; what else it has is passed over:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    {"prompt": "Hi", "response": "Hello"}
    {"instruction": "Translate.", "input": "bonjour", "output": "hello"}

To the rest of a corpus, a conversation is a document whose text is a JSON list of its messages.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from gptlab.corpus.compression import NotTextError
from gptlab.corpus.rows import JSON_LINES, RowFormat, json_object

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)

_PAIRS = (("prompt", "response"), ("instruction", "output"))


class Message(NamedTuple):
    """What one of the parties says."""

    role: str
    """system, user or assistant."""
    content: str


Conversation = tuple[Message, ...]


def to_text(messages: Conversation) -> str:
    """The messages as a document's text, which `from_text` reads."""
    return json.dumps(messages, ensure_ascii=False)


def from_text(text: str) -> Conversation:
    """The messages that `to_text` wrote."""
    return tuple(Message(role, content) for role, content in json.loads(text))


def contents(text: str) -> str:
    """What is said in a document that `to_text` wrote, message by message, without the roles."""
    return "\n".join(message.content for message in from_text(text))


def messages_of(value: object, place: str = "messages") -> Conversation:
    """The messages in a list of objects with a role and a content, or of `Message`s.

    Raises:
        NotTextError: There are none, a role is unknown, a content is no string, or a system
            message is not the first; the message names `place` and the number of the message.
    """
    if not isinstance(value, list | tuple):
        raise NotTextError(
            f"{place} is no list of messages but {type(value).__name__}; write it as "
            '[{"role": "user", "content": "..."}, ...]',
            reason="no messages",
        )
    if not value:
        raise NotTextError(
            f"{place} has no messages; write some, or remove it", reason="no messages"
        )
    return tuple(
        _message(one, f"{place}, message {number}", first=number == 1)
        for number, one in enumerate(value, start=1)
    )


def _message(value: object, place: str, *, first: bool) -> Message:
    if isinstance(value, Message):
        value = value._asdict()
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        raise NotTextError(
            f'{place} is no object with a role and a content; write {{"role": "user", "content": '
            '"..."}',
            reason="no messages",
        )
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise NotTextError(
            f"{place} has the role {role!r}; write one of {', '.join(ROLES)}", reason="unknown role"
        )
    if not isinstance(content, str):
        raise NotTextError(
            f"{place} has a content that is no string but {type(content).__name__}; write a string",
            reason="not a string",
        )
    if role == SYSTEM and not first:
        raise NotTextError(
            f"{place} is the system's, but only the first may be; move or remove it",
            reason="system message not first",
        )
    return Message(role, content)


def _value(line: bytes, place: str, field: str, errors: str) -> str:
    """A row's conversation as a text.

    Raises:
        NotTextError: It has none, or one that nothing can be learned from.
    """
    row = json_object(line, place, errors)
    messages = messages_of(_messages(row, place, field), f"{place}: {field}")
    if all(message.role != ASSISTANT for message in messages):
        raise NotTextError(
            f"{place} has no assistant turn, so that nothing can be learned from it; remove it",
            reason="no assistant turn",
        )
    return to_text(messages)


def _messages(row: dict[str, Any], place: str, field: str) -> object:
    if field in row:
        return row[field]
    for question, answer in _PAIRS:
        if {question, answer} <= row.keys():
            for name in (question, "input", answer):
                if not isinstance(row.get(name, ""), str):
                    raise NotTextError(
                        f"{place}: field '{name}' is no string but {type(row[name]).__name__}; "
                        "write a string",
                        reason="not a string",
                    )
            asked = row[question]
            if question == "instruction" and row.get("input"):
                asked = f"{asked}\n\n{row['input']}"
            return (Message(USER, asked), Message(ASSISTANT, row[answer]))
    raise NotTextError(
        f"{place} has no conversation, only {list(row)}; it takes '{field}', 'prompt' and "
        "'response', or 'instruction' and 'output'",
        reason="no such field",
    )


CONVERSATIONS = RowFormat("line", JSON_LINES.rows, _value)
