"""The one face that every tokenizer shows: text to ids and back."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

SPECIAL_TOKENS: tuple[str, str, str, str] = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")


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

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`; text that looks like a special token is plain text unless allowed."""
        ...

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
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
