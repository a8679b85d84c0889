"""What a worker process does with items: filters, digests, control tokens, ids."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.config import FilterConfig
from gptlab.corpus import conversations
from gptlab.corpus.filters import DocumentFilter
from gptlab.corpus.signature import Signature, content_hash, signature
from gptlab.data.preparation.control import ControlTokens
from gptlab.data.preparation.reading import Item
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.base import TokenArray
from gptlab.tokenizer.chat import ChatEncoder, ChatTemplate, Rendered
from gptlab.tokenizer.chunks.patterns import BLOCK_CHARACTERS


class Examined(NamedTuple):
    """An item and what became of its text, which it no longer holds."""

    item: Item
    """With the reason, if it is left out."""
    content: bytes
    """Digest of the text."""
    signature: Signature | None
    """MinHash of the text, if near duplicates are asked for."""
    control: tuple[str, ...]
    """Control tokens of the document that begins with it."""
    ids: TokenArray | None
    """Control tokens and those of the text, unless it is left out."""
    mask: npt.NDArray[np.uint8] | None
    """Of a conversation, which of them are the assistant's."""
    characters: int
    size: int
    """Bytes of the text in UTF-8."""


class Examiner:
    """Judges and encodes lists of items.

    Args:
        tokenizer: Any.
        filters: Which documents are kept.
        signed: Whether each gets a signature.
        control: Which tokens stand in front of each.
        template: How conversations are written, if that is what the items are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        filters: FilterConfig,
        *,
        signed: bool,
        control: ControlTokens,
        template: ChatTemplate | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat = None if template is None else ChatEncoder(template, tokenizer)
        self._filter = DocumentFilter(filters)
        self._signed = signed
        self._control = control

    def __call__(self, items: list[Item]) -> list[Examined]:
        """The items in the same order, each with what became of it."""
        judged = [self._judged(item) for item in items]
        rendered = self._rendered([item.text for item in judged if item.reason is None])
        return [
            self._examined(item, *((None, None) if item.reason else next(rendered)))
            for item in judged
        ]

    def _judged(self, item: Item) -> Item:
        if item.reason or not self._filter.is_active:
            return item
        return item._replace(reason=self._filter.reason(self._said(item.text)))

    def _said(self, text: str) -> str:
        """What people would read of a document."""
        return text if self._chat is None or not text else conversations.contents(text)

    def _rendered(self, texts: list[str]) -> Iterator[Rendered | tuple[TokenArray, None]]:
        if self._chat is not None:
            yield from self._chat.render_all([conversations.from_text(text) for text in texts])
            return
        for ids in self._encoded(texts):
            yield ids, None

    def _encoded(self, texts: list[str]) -> Iterator[TokenArray]:
        short = [text for text in texts if len(text) <= BLOCK_CHARACTERS]
        arrays = iter(self._tokenizer.encode_to_arrays(short))
        for text in texts:
            # At once, a long text would take many times its own memory.
            is_short = len(text) <= BLOCK_CHARACTERS
            yield next(arrays) if is_short else self._tokenizer.encode_to_array(text)

    def _examined(
        self, item: Item, ids: TokenArray | None, mask: npt.NDArray[np.uint8] | None
    ) -> Examined:
        text = self._said(item.text)
        kept = ids is not None
        control: tuple[str, ...] = ()
        if ids is not None and item.is_first:
            control = self._control.of(text, item.language)
            ids = np.concatenate([self._control.ids(control), ids]) if control else ids
        return Examined(
            item=item._replace(text=""),
            content=content_hash(item.text),
            signature=signature(text) if self._signed and kept else None,
            control=control,
            ids=ids,
            mask=mask,
            characters=len(text),
            size=len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")),
        )
