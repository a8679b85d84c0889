"""Conversations to a dataset: tokens, and which of them the assistant says."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gptlab.config import WindowConfig
from gptlab.corpus import Corpus, conversations
from gptlab.data.shard_writer import DatasetWriter
from gptlab.errors import DataError
from gptlab.parallel import batched, parallel_map
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatEncoder, ChatTemplate, Rendered

_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Chat:
    """The form that conversations get."""

    template: ChatTemplate
    seq_len: int
    """Tokens of the windows that they are packed into."""


def said(corpus: Corpus) -> Iterator[str]:
    """What is said in each conversation of a corpus, without the roles; to train a tokenizer on.

    Raises:
        DataError: A row is no conversation.
    """
    return map(conversations.contents, corpus.documents())


def write_conversations(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, *, chat: Chat, progress: bool
) -> None:
    """Write the dataset of a corpus of conversations into `folder`.

    Raises:
        DataError: A row is no conversation, or there are none.
        TokenizerError: The tokenizer lacks a token of the template.
    """
    # What is wrong is told here, and not by a worker.
    ChatEncoder(chat.template, tokenizer)
    writer = DatasetWriter(folder, vocab_size=tokenizer.vocab_size, masked=True, name=folder.parent)
    batches = batched(corpus.documents(), _BATCH_CHARACTERS, length=len)
    characters = size = answer_tokens = 0
    results = parallel_map(partial(_Renderer, chat.template, tokenizer), batches)
    with tqdm(desc="encoding", unit="B", unit_scale=True, disable=not progress) as bar:
        for (ids, mask), length, count in chain.from_iterable(results):
            writer.write(ids, mask)
            writer.end_document()
            characters, size = characters + length, size + count
            answer_tokens += int(mask.sum())
            bar.update(count)
    if not writer.documents:
        raise DataError(f"{corpus.root} has no conversation in this part of it; give more")
    writer.finish(
        characters=characters,
        bytes=size,
        tokenizer=tokenizer.fingerprint(),
        pad_id=tokenizer.pad_id,
        source={"name": corpus.name, "sha256": corpus.fingerprint()},
        windows=WindowConfig(mode="conversations", seq_len=chat.seq_len).model_dump(),
        chat_template=chat.template.model_dump(mode="json"),
        answer_tokens=answer_tokens,
    )


class _Encoded(NamedTuple):
    rendered: Rendered
    characters: int
    size: int


class _Renderer:
    """Renders documents in a process of its own."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._encoder = ChatEncoder(template, tokenizer)

    def __call__(self, texts: list[str]) -> list[_Encoded]:
        rendered = self._encoder.render_all([conversations.from_text(text) for text in texts])
        said = [conversations.contents(text) for text in texts]
        return [
            _Encoded(one, len(text), len(text.encode("utf-8", "surrogatepass")))
            for one, text in zip(rendered, said, strict=True)
        ]
