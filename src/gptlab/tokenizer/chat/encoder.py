r"""Conversations to ids, and to which of them are the assistant's.

    template  <|im_start|> "assistant\n"     <|im_end|> "\n"
    content                            "Hi"
    mask            0           0       1        1        0

What stands between two tokens of the template is encoded as one text, content included, in which no
token of the template is looked for. Only where the assistant begins to speak is there a cut, so
that what it said is read just as it is generated: the prompt's ids are the beginning of the whole
conversation's.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.corpus.conversations import ASSISTANT, Conversation
from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import TokenArray, Tokenizer, token_dtype
from gptlab.tokenizer.chat.template import BOS, EOS, ChatTemplate
from gptlab.tokenizer.chat.vocabulary import (
    id_of,
    missing_tokens,
    names_in_text,
    without_names_in_text,
)


class Rendered(NamedTuple):
    """A conversation as ids, (n,) each."""

    ids: TokenArray
    mask: npt.NDArray[np.uint8]
    """1 where the id is the assistant's, up to and with the end of its turn, else 0."""


class _Run(NamedTuple):
    """A stretch that is encoded as one: a text, or a token of the template."""

    text: str
    id: int | None
    is_answer: bool


class ChatEncoder:
    """Renders conversations by a template.

    Args:
        template: What stands around the messages.
        tokenizer: Has the template's tokens.

    Raises:
        TokenizerError: The tokenizer lacks a token of the template.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        if missing := missing_tokens(tokenizer, template):
            raise TokenizerError(
                f"chat template {template.name} needs the special token {missing[0]}, which the "
                "tokenizer has not got; name the template that the model was trained with, or plain"
            )
        self._ids = {name: id_of(tokenizer, name) for name in template.special_tokens}
        # One that ends no text simply has none; a conversation without a begin is still one.
        self._ids |= {BOS: tokenizer.bos_id, EOS: tokenizer.eos_id}
        end = self._ids[template.end]
        if end is None:
            raise TokenizerError(
                f"chat template {template.name} ends the assistant's turn by the tokenizer's end "
                "of text, which it has not got; name another template, as chatml"
            )
        self._of_contents = without_names_in_text(tokenizer, template)
        names = "|".join(map(re.escape, names_in_text(self._of_contents, template)))
        self._names = re.compile(f"(?={names})") if names else None
        self.end_id: int = end
        """The token that ends the assistant's turn."""

    def render(self, messages: Conversation) -> Rendered:
        """A conversation of at least one message as ids, with a mask."""
        return self.render_all([messages])[0]

    def render_all(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """`render` for each conversation; faster than one by one."""
        return self._encoded([list(self._runs(messages)) for messages in conversations])

    def prompt(self, messages: Conversation) -> list[int]:
        """The ids from which the model goes on as the assistant."""
        runs = [*self._runs(messages), *self._template_runs(self.template.generation_prompt)]
        ids: list[int] = self._encoded([list(_joined(runs))])[0].ids.tolist()
        return ids

    def text(self, messages: Conversation, *, generation_prompt: bool = False) -> str:
        """The conversation as a text with the names of tokens in it, for people to read."""
        template = self.template
        names = {BOS: self._name(BOS), EOS: self._name(EOS)}
        text = _named(template.start, names)
        for turn, message in template.turns(messages):
            text += _named(turn.before, names) + message.content + _named(turn.after, names)
        return text + _named(template.generation_prompt if generation_prompt else "", names)

    def _name(self, role: str) -> str:
        token = self._ids[role]
        return "" if token is None else self.tokenizer.decode([token])

    def _runs(self, messages: Conversation) -> Iterator[_Run]:
        return _joined(self._pieces(messages))

    def _pieces(self, messages: Conversation) -> Iterator[_Run]:
        template = self.template
        yield from self._template_runs(template.start)
        for turn, message in template.turns(messages):
            if message.role != ASSISTANT:
                yield from self._template_runs(turn.before)
                yield _Run(message.content, None, False)
                yield from self._template_runs(turn.after)
                continue
            before, end, behind = turn.after.partition(template.end)
            yield from self._template_runs(template.generation_prompt)
            yield _Run(template.lead + message.content, None, True)
            yield from self._template_runs(before + end, is_answer=True)
            yield from self._template_runs(behind)

    def _template_runs(self, text: str, *, is_answer: bool = False) -> Iterator[_Run]:
        for part, is_token in self.template.tokens_in(text):
            if not is_token:
                yield _Run(part, None, is_answer)
            elif self._ids[part] is not None:
                yield _Run("", self._ids[part], is_answer)

    def _encoded(self, conversations: Sequence[list[_Run]]) -> list[Rendered]:
        texts = [run.text for runs in conversations for run in runs if run.id is None]
        arrays = iter(self._encoded_texts(texts))
        dtype = token_dtype(self.tokenizer.vocab_size)
        rendered = []
        for runs in conversations:
            parts = [next(arrays) if run.id is None else np.array([run.id], dtype) for run in runs]
            ids = np.concatenate([np.empty(0, dtype), *parts])
            flags = np.array([run.is_answer for run in runs], np.uint8)
            mask = np.repeat(flags, [part.size for part in parts])
            # Nothing stands before it from which it could be predicted.
            mask[:1] = 0
            rendered.append(Rendered(ids, mask))
        return rendered

    def _encoded_texts(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each text, in which no token of the template is found."""
        if self._names is None:
            return self._of_contents.encode_to_arrays(texts)
        # A name that is cut behind its first character is none.
        parts = [_cut(text, [m.start() + 1 for m in self._names.finditer(text)]) for text in texts]
        pieces = [part for cut in parts for part in cut]
        arrays = iter(self._of_contents.encode_to_arrays(pieces))
        return [np.concatenate([next(arrays) for _ in cut]) for cut in parts]


def _cut(text: str, places: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]


def _joined(runs: "Sequence[_Run] | Iterator[_Run]") -> Iterator[_Run]:
    """The runs, those of text that touch made one if they are the same party's."""
    held: _Run | None = None
    for run in runs:
        if held is None:
            held = run
        elif held.id is None and run.id is None and held.is_answer == run.is_answer:
            held = held._replace(text=held.text + run.text)
        else:
            yield held
            held = run
    if held is not None:
        yield held


def _named(text: str, names: dict[str, str]) -> str:
    for role, name in names.items():
        text = text.replace(role, name)
    return text
