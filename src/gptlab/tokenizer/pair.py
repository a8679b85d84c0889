"""A tokenizer for sources beside that for targets, for models that turn one into the other."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import SpecialNames, TokenArray, Tokenizer

SOURCE_FOLDER = "source_tokenizer"
"""Where in a folder the tokenizer of sources is, if that is another one."""


class PairTokenizer:
    """The tokenizer of targets, all of whose methods are its own, and that of sources.

    Args:
        target: Of what a model writes.
        source: Of what it reads.
    """

    def __init__(self, target: Tokenizer, source: Tokenizer) -> None:
        self.target, self.source = target, source

    @property
    def vocab_size(self) -> int:
        """The target's."""
        return self.target.vocab_size

    @property
    def pad_id(self) -> int | None:
        """The target's."""
        return self.target.pad_id

    @property
    def unk_id(self) -> int | None:
        """The target's."""
        return self.target.unk_id

    @property
    def bos_id(self) -> int | None:
        """The target's."""
        return self.target.bos_id

    @property
    def eos_id(self) -> int | None:
        """The target's."""
        return self.target.eos_id

    @property
    def divisible(self) -> bool:
        """The target's."""
        return self.target.divisible

    def encode(
        self,
        text: str,
        *,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> list[int]:
        """Ids of a target."""
        return self.target.encode(
            text,
            allowed_special=allowed_special,
            disallowed_special=disallowed_special,
            dropout=dropout,
            seed=seed,
        )

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each target."""
        return self.target.encode_batch(texts)

    def encode_to_array(self, text: str) -> TokenArray:
        """Ids of a target."""
        return self.target.encode_to_array(text)

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """Ids of each target."""
        return self.target.encode_to_arrays(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a target."""
        return self.target.decode(ids)

    def save(self, folder: str | Path) -> None:
        """Write both into `folder`, the source's into a folder of its own there."""
        self.target.save(folder)
        self.source.save(Path(folder) / SOURCE_FOLDER)

    def fingerprint(self) -> str:
        """Hex digest of all that decides how sources and targets are encoded."""
        both = f"{self.source.fingerprint()} {self.target.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()


def source_of(tokenizer: Tokenizer) -> Tokenizer:
    """What encodes sources: a pair's own, or else the one tokenizer that there is."""
    return tokenizer.source if isinstance(tokenizer, PairTokenizer) else tokenizer


def target_of(tokenizer: Tokenizer) -> Tokenizer:
    """What encodes targets, with all that it has beside the methods of every tokenizer."""
    return tokenizer.target if isinstance(tokenizer, PairTokenizer) else tokenizer


def with_sources_of(tokenizer: Tokenizer, own: Tokenizer | None) -> Tokenizer:
    """`tokenizer` for targets, with what encodes the sources in `own`, if that is another one."""
    if isinstance(own, PairTokenizer) and not isinstance(tokenizer, PairTokenizer):
        return PairTokenizer(tokenizer, own.source)
    return tokenizer


def start_id(tokenizer: Tokenizer) -> int:
    """What a target begins with: the beginning of a sequence, or where there is none the end.

    Raises:
        TokenizerError: The tokenizer has neither.
    """
    return end_id(tokenizer) if tokenizer.bos_id is None else tokenizer.bos_id


def end_id(tokenizer: Tokenizer) -> int:
    """What a source or a target ends with.

    Raises:
        TokenizerError: The tokenizer has no token for the end of a sequence.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError(
            "the tokenizer has no token that ends a sequence, which sources and targets need; "
            "train one with gptlab-tokenize, or give one that has such a token"
        )
    return tokenizer.eos_id
