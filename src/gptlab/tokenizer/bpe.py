"""Byte-level BPE: any string to ids and back without loss (Sennrich et al. 2016)."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Self

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.files import write_files
from gptlab.tokenizer.huggingface import folder_files, read_tokenizer
from gptlab.tokenizer.ids import bytes_to_text, checked_ids, split_special
from gptlab.tokenizer.merging import ChunkEncoder
from gptlab.tokenizer.patterns import compiled, split


class BPETokenizer:
    """A byte-level BPE tokenizer: a split pattern and a list of merges.

    Ids 0 to 255 are the bytes, then come the merges in order, then <PAD>, <UNK>, <BOS> and <EOS>.
    `decode(encode(text)) == text` for every string, lone surrogates included. Nothing is unknown
    to a byte-level vocabulary, so `encode` never yields <UNK> by itself. Not to be changed once
    made; two tokenizers are equal when their fingerprints are.

    Args:
        merges: The two parts of each merge, in the order in which merges are made.
        pattern: How text is cut into chunks before merging: "gpt4" or "gpt2".

    Raises:
        TokenizerError: The pattern is unknown, a merge joins parts that do not exist yet, or two
            merges make the same bytes.
    """

    def __init__(self, merges: Sequence[tuple[bytes, bytes]], *, pattern: str = "gpt4") -> None:
        compiled(pattern)
        self._pattern = pattern
        self._merges = [(left, right) for left, right in merges]
        tokens, merged = _vocabulary(self._merges)
        self._token_bytes = [*tokens, *(token.encode() for token in SPECIAL_TOKENS)]
        self._special_ids = {token: i for i, token in enumerate(SPECIAL_TOKENS, len(tokens))}
        self._chunk_ids = ChunkEncoder(tokens, merged)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The two parts of each merge, in order; merge number i has the id 256 + i."""
        return list(self._merges)

    @property
    def pattern(self) -> str:
        """Name of the split pattern."""
        return self._pattern

    @property
    def vocab_size(self) -> int:
        """Number of ids: 256 bytes, the merges, and 4 special tokens."""
        return len(self._token_bytes)

    @property
    def pad_id(self) -> int:
        """Id of <PAD>."""
        return self._special_ids["<PAD>"]

    @property
    def unk_id(self) -> int:
        """Id of <UNK>."""
        return self._special_ids["<UNK>"]

    @property
    def bos_id(self) -> int:
        """Id of <BOS>."""
        return self._special_ids["<BOS>"]

    @property
    def eos_id(self) -> int:
        """Id of <EOS>."""
        return self._special_ids["<EOS>"]

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`.

        Args:
            text: Any string.
            allow_special: Turn "<EOS>" and the other special tokens in `text` into their ids,
                instead of taking them for plain text.
        """
        if not allow_special:
            chunks = split(text, self._pattern)
            return list(chain.from_iterable(map(self._chunk_ids.__getitem__, chunks)))
        ids: list[int] = []
        for part in split_special(text, self._special_ids):
            ids += [part] if isinstance(part, int) else self.encode(part)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; a special token gives its name, and what is no UTF-8 becomes U+FFFD.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        tokens = self._token_bytes
        return bytes_to_text(b"".join([tokens[i] for i in checked_ids(ids, len(tokens))]))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        (checked,) = checked_ids([token_id], self.vocab_size)
        return self._token_bytes[checked]

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, which Hugging Face's libraries read as it is, and its companions.

        The same tokenizer always gives the same bytes. Missing parent folders are made.

        Raises:
            TokenizerError: The folder can't be written.
        """
        write_files(folder, folder_files(self._merges, self._pattern))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Rebuild a tokenizer from the `tokenizer.json` in `folder`.

        Raises:
            TokenizerError: The file is missing, garbled, or another kind of tokenizer.
        """
        merges, pattern = read_tokenizer(Path(folder))
        return cls(merges, pattern=pattern)

    def fingerprint(self) -> str:
        """SHA-256 hex digest over pattern, merges and special tokens."""
        merges = [(left.hex(), right.hex()) for left, right in self._merges]
        content = json.dumps(["bpe", compiled(self._pattern).pattern, merges, SPECIAL_TOKENS])
        return hashlib.sha256(content.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BPETokenizer):
            return NotImplemented
        return (self._pattern, self._merges) == (other._pattern, other._merges)

    def __hash__(self) -> int:
        return hash((self._pattern, tuple(self._merges)))

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, pattern={self._pattern!r})"

    def __reduce__(self) -> tuple[Callable[..., "BPETokenizer"], tuple[object, ...]]:
        # A copy in another process starts from the merges, not from a cache of chunks.
        return partial(type(self), pattern=self._pattern), (self._merges,)


def _vocabulary(
    merges: Sequence[tuple[bytes, bytes]],
) -> tuple[list[bytes], dict[tuple[int, int], int]]:
    """The bytes of each id, and the id that each pair of ids merges into."""
    tokens = [bytes([byte]) for byte in range(256)]
    ids = {token: i for i, token in enumerate(tokens)}
    merged = {}
    for number, (left, right) in enumerate(merges):
        for part in (left, right):
            if part not in ids:
                raise TokenizerError(
                    f"merge {number} joins {left!r} and {right!r}, but no byte or earlier merge "
                    f"makes {part!r}: put the merges in the order they were learned in"
                )
        token = left + right
        if token in ids:
            raise TokenizerError(
                f"merge {number} makes {token!r}, which is a token already: remove the merge"
            )
        merged[ids[left], ids[right]] = ids[token] = len(tokens)
        tokens.append(token)
    return tokens, merged
