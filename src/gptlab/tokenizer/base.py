"""The one face that every tokenizer shows: text to ids and back."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

SPECIAL_TOKENS: tuple[str, str, str, str] = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")

SpecialNames = Collection[str] | Literal["all"]
"""Names of special tokens, or "all" of them."""

TokenArray = npt.NDArray[np.unsignedinteger[Any]]
"""Ids, (n,) uint16 where the vocabulary has no more than 65,536 of them, else uint32."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back; what data, checkpoints and generation rely on.

    Special ids are None where the underlying vocabulary has no such token.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; every id is below it."""
        ...

    @property
    def pad_id(self) -> int | None:
        """Id of the padding token."""
        ...

    @property
    def unk_id(self) -> int | None:
        """Id of the token for the unknown."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a sequence."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a document."""
        ...

    def encode(
        self,
        text: str,
        *,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> list[int]:
        """Ids of `text`; text that looks like a special token is plain text unless allowed.

        Args:
            text: Any string.
            allowed_special: Special tokens that become their ids where `text` has their names, or
                "all" of them.
            disallowed_special: Strings that must not be in `text`, or "all" for the special tokens
                that are not allowed.
            dropout: Probability with which merges are left out at random, where that can be done.
            seed: Makes dropout repeatable.

        Raises:
            TokenizerError: `text` has a disallowed special token, an allowed one does not exist,
                or this tokenizer has no such dropout.
        """
        ...

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        ...

    @property
    def divisible(self) -> bool:
        """Whether a text's ids are those of its `patterns.blocks`, one after another."""
        ...

    def encode_to_array(self, text: str) -> TokenArray:
        """`encode` into an array, which is faster for long texts."""
        ...

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        ...

    def save(self, folder: str | Path) -> None:
        """Write everything `load_tokenizer` needs to rebuild this tokenizer into `folder`."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of all that decides `encode`; equal for equal tokenizers across machines."""
        ...
