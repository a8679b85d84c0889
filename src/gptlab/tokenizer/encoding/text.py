"""The ids of a text under a definition: exactly, and for long texts fast."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np

from gptlab.parallel import batched
from gptlab.tokenizer.base import TokenArray, token_dtype
from gptlab.tokenizer.chunks.patterns import BLOCK_CHARACTERS, blocks
from gptlab.tokenizer.chunks.steps import cut
from gptlab.tokenizer.encoding.added_tokens import TokenFinder
from gptlab.tokenizer.encoding.block import BlockEncoder
from gptlab.tokenizer.encoding.merging import ChunkEncoder
from gptlab.tokenizer.formats.definition import Definition

# Below this many characters the look-ups one by one are faster than the array operations.
_LONG = 3000


class TextEncoder:
    """Encodes as a definition says.

    Args:
        definition: The byte-level BPE.
        vocab_size: One more than its highest id.
    """

    def __init__(self, definition: Definition, vocab_size: int) -> None:
        self._definition = definition
        self._dtype = token_dtype(vocab_size)
        self._pattern = definition.sole_pattern
        # A block encoder for each thread, so that none sees what another has half remembered.
        self._of_thread = threading.local()
        self._chunk_ids = ChunkEncoder(
            definition.mergeable(), definition.merges_in_bytes(), whole=definition.whole_chunks()
        )
        self._finder = lru_cache(maxsize=8)(self._new_finder)

    def _new_finder(self, allowed: frozenset[str]) -> TokenFinder:
        """What finds the added tokens that count: the allowed ones, and all that aren't special."""
        added = self._definition.added_tokens
        tokens = [token for token in added if not token.special or token.content in allowed]
        return TokenFinder(tokens, self._definition.normalizers)

    @property
    def divisible(self) -> bool:
        """Whether text is cut by one of gptlab's patterns and by nothing else."""
        return self._pattern is not None

    @property
    def ranks(self) -> dict[bytes, int] | None:
        """The ranks from which tiktoken makes the same ids; None if it can't."""
        return self._chunk_ids.ranks

    def encode(
        self, text: str, *, allowed: frozenset[str], dropout: float, seed: int | None
    ) -> list[int]:
        """Ids of `text`, in which the `allowed` special tokens are looked for.

        Raises:
            TokenizerError: `dropout` is no probability.
        """
        if self.divisible and not allowed and not dropout and len(text) >= _LONG:
            ids: list[int] = self.encode_to_array(text).tolist()
            return ids
        encode_chunk = self._chunk_ids.__getitem__
        if dropout:
            encode_chunk = self._chunk_ids.with_dropout(dropout, seed)
        return list(chain.from_iterable(self._parts(text, allowed, encode_chunk)))

    def _parts(
        self, text: str, allowed: frozenset[str], encode_chunk: Callable[[str], Sequence[int]]
    ) -> Iterable[Sequence[int]]:
        for part in self._finder(allowed).parts(text):
            if isinstance(part, int):
                yield [part]
            else:
                yield from map(encode_chunk, cut(part, self._definition.steps))

    def encode_to_array(self, text: str) -> TokenArray:
        """Ids of `text`, in which no special tokens are looked for."""
        pieces = blocks([text]) if self.divisible else [text]
        return np.concatenate([np.zeros(0, self._dtype), *self.encode_to_arrays(pieces)])

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text, best of texts that are no longer than a block."""
        encode_block = self._encode_block
        if encode_block is not None:
            groups = batched(texts, BLOCK_CHARACTERS, length=len)
            return list(chain.from_iterable(map(encode_block, groups)))
        plain = (self.encode(t, allowed=frozenset(), dropout=0.0, seed=None) for t in texts)
        return [np.array(ids, self._dtype) for ids in plain]

    @property
    def _encode_block(self) -> BlockEncoder | None:
        if self._pattern is None:
            return None
        if not hasattr(self._of_thread, "encode_block"):
            encode_chunk = self._chunk_ids.encode_bytes
            self._of_thread.encode_block = BlockEncoder(self._pattern, encode_chunk, self._dtype)
        encode_block: BlockEncoder = self._of_thread.encode_block
        return encode_block
