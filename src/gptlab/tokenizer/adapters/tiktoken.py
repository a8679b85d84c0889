"""tiktoken's encodings behind the same face as our own tokenizer."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import tiktoken

from gptlab.errors import TokenizerError
from gptlab.tokenizer.adapters.shared import in_background, one_line, refuse_dropout
from gptlab.tokenizer.base import SpecialNames, TokenArray, token_dtype
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.files import read_json, to_json, write_files
from gptlab.tokenizer.formats.tiktoken_file import define_by_ranks
from gptlab.tokenizer.ids import bytes_to_text, checked_ids, unknown_id, without_surrogates
from gptlab.tokenizer.special import allowed_names

TIKTOKEN_FILE = "tiktoken.json"

# Enough for the largest file, 3.6 MB, at half a megabit a second.
_PATIENCE_SECONDS = 60.0

Encoded = TypeVar("Encoded")


class TiktokenTokenizer:
    """A `tiktoken.Encoding` behind the `Tokenizer` protocol.

    Every string round-trips, except that a lone surrogate becomes U+FFFD. Of the special ids only
    `eos_id` can be set: that of "<|endoftext|>".

    Args:
        encoding: Any encoding, tiktoken's own or one built from ranks.
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    @classmethod
    def from_name(cls, name: str) -> Self:
        """One of tiktoken's own encodings, such as "gpt2"; downloaded if it is not cached yet.

        Raises:
            TokenizerError: tiktoken knows no such encoding, or it can't be had within a minute.
        """
        try:
            return cls(in_background(lambda: _named(name), seconds=_PATIENCE_SECONDS))
        except (OSError, ValueError) as error:
            raise TokenizerError(
                f"tiktoken can't fetch the encoding {name!r} ({one_line(error)}): load it once on "
                f"a machine that is online, with TIKTOKEN_CACHE_DIR set to a folder, then copy "
                f"that folder here and set TIKTOKEN_CACHE_DIR to it"
            ) from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; a few ids below it may stand for nothing."""
        return self._encoding.n_vocab

    @property
    def gaps(self) -> tuple[int, ...]:
        """Ids below `vocab_size` that stand for nothing."""
        ranks, special = self._encoding._mergeable_ranks, self._encoding._special_tokens
        if len(ranks) + len(special) == self.vocab_size:
            return ()
        known = {*ranks.values(), *special.values()}
        return tuple(i for i in range(self.vocab_size) if i not in known)

    @property
    def pad_id(self) -> None:
        """None: tiktoken has no padding token."""

    @property
    def unk_id(self) -> None:
        """None: to a byte-level vocabulary nothing is unknown."""

    @property
    def bos_id(self) -> None:
        """None: tiktoken has no token that begins a sequence."""

    @property
    def eos_id(self) -> int | None:
        """Id of "<|endoftext|>", if there is one."""
        return self._encoding._special_tokens.get("<|endoftext|>")

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token."""
        return dict(self._encoding._special_tokens)

    @property
    def divisible(self) -> bool:
        """False: an encoding may have any pattern."""
        return False

    def encode(
        self,
        text: str,
        *,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
        dropout: float = 0.0,
        seed: int | None = None,  # noqa: ARG002 (the protocol has it, beside dropout)
    ) -> list[int]:
        """Ids of `text`.

        Args:
            text: Any string; a lone surrogate counts as U+FFFD.
            allowed_special: Names of special tokens, such as "<|endoftext|>", that become their
                ids, or "all"; the others are plain text.
            disallowed_special: Strings that must not be in `text`, or "all" for the special tokens
                that are not allowed.
            dropout: 0; tiktoken has no dropout.
            seed: Of no effect.

        Raises:
            TokenizerError: `text` has a disallowed special token, an allowed one does not exist,
                `dropout` is not 0, or tiktoken gives up, as it does on some very long runs of
                whitespace.
        """
        refuse_dropout(dropout)
        special = self._encoding._special_tokens
        allowed = allowed_names(
            text, special, allowed=allowed_special, disallowed=disallowed_special
        )
        if not allowed:
            return _guarded(lambda: self._encoding.encode_ordinary(text))
        return _guarded(
            lambda: self._encoding.encode(text, allowed_special=allowed, disallowed_special=())
        )

    def encode_to_array(self, text: str) -> TokenArray:
        """Ids of `text`, all of it plain: uint16 up to a vocabulary of 65536, else uint32.

        Raises:
            TokenizerError: tiktoken gives up, as it does on some very long runs of whitespace.
        """
        text = without_surrogates(text)
        ids = _guarded(lambda: self._encoding.encode_to_numpy(text, disallowed_special=()))
        return ids.astype(token_dtype(self.vocab_size))

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text."""
        return [self.encode_to_array(text) for text in texts]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text, on several threads.

        Raises:
            TokenizerError: tiktoken gives up, as it does on some very long runs of whitespace.
        """
        return _guarded(lambda: self._encoding.encode_ordinary_batch(list(texts)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        return bytes_to_text(b"".join(map(self._bytes_of, checked_ids(ids, self.vocab_size))))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for.

        Raises:
            TokenizerError: The id is outside the vocabulary, or in one of its gaps.
        """
        (checked,) = checked_ids([token_id], self.vocab_size)
        return self._bytes_of(checked)

    def _bytes_of(self, token_id: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(token_id)
        except KeyError as error:
            raise unknown_id(token_id, self.vocab_size) from error

    def save(self, folder: str | Path) -> None:
        """Write one self-contained file, `tiktoken.json`, from which `load` needs no network.

        Raises:
            TokenizerError: The folder can't be written.
        """
        content = {"name": self._encoding.name, **self._definition()}
        write_files(folder, {TIKTOKEN_FILE: to_json(content)})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Rebuild a tokenizer from the `tiktoken.json` in `folder`.

        Raises:
            TokenizerError: The file is missing or garbled.
        """
        path = Path(folder) / TIKTOKEN_FILE
        content = read_json(path)
        try:
            return cls(_encoding(content))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TokenizerError(
                f"{path} is no saved tiktoken encoding ({error}): save the tokenizer again"
            ) from error

    def as_bpe(self) -> BPETokenizer:
        """The same tokenizer as a byte-level BPE that gptlab runs itself; its ids are the same.

        Raises:
            TokenizerError: The ranks come from no merges, or the pattern is one that other engines
                may read differently.
        """
        encoding = self._encoding
        try:
            definition = define_by_ranks(
                encoding._mergeable_ranks,
                pattern=encoding._pat_str,
                special_tokens=encoding._special_tokens,
            )
        except (ValueError, TokenizerError) as error:
            raise TokenizerError(
                f"the encoding {encoding.name!r} is no byte-level BPE that gptlab can run: {error}"
            ) from error
        return BPETokenizer.from_definition(definition)

    def fingerprint(self) -> str:
        """SHA-256 hex digest over pattern, ranks and special tokens."""
        return hashlib.sha256(to_json(self._definition())).hexdigest()

    def _definition(self) -> dict[str, Any]:
        ranks = sorted(self._encoding._mergeable_ranks.items(), key=lambda item: item[1])
        special = sorted(self._encoding._special_tokens.items(), key=lambda item: item[1])
        return {
            "pattern": self._encoding._pat_str,
            "ranks": {base64.b64encode(token).decode(): rank for token, rank in ranks},
            "special_tokens": dict(special),
        }


def _named(name: str) -> tiktoken.Encoding:
    try:
        return tiktoken.get_encoding(name)
    except ValueError as error:
        names = tiktoken.list_encoding_names()
        if name in names:
            raise
        raise TokenizerError(
            f"tiktoken can't provide {name!r}: it knows {', '.join(names)}"
        ) from error


def _guarded(encode: Callable[[], Encoded]) -> Encoded:
    """Call `encode`, with a panic of tiktoken's Rust core as an error that can be caught."""
    try:
        return encode()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"tiktoken gives up on this text ({error}): cut it into shorter lines, above all its "
            f"long runs of whitespace"
        ) from error


def _encoding(content: dict[str, Any]) -> tiktoken.Encoding:
    ranks = {base64.b64decode(token): rank for token, rank in content["ranks"].items()}
    special = content["special_tokens"]
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("not every byte has a rank")
    ids = [*ranks.values(), *special.values()]
    if not all(isinstance(i, int) and i >= 0 for i in ids) or len(set(ids)) < len(ids):
        raise ValueError("ids must be distinct integers from 0 up")
    return tiktoken.Encoding(
        content["name"],
        pat_str=content["pattern"],
        mergeable_ranks=ranks,
        special_tokens=special,
    )
