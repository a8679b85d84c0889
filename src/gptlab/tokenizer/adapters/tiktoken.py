"""tiktoken's encodings behind the same face as our own tokenizer."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import tiktoken

from gptlab.errors import TokenizerError
from gptlab.tokenizer.files import read_json, to_json, write_files
from gptlab.tokenizer.ids import bytes_to_text, checked_ids, unknown_id

TIKTOKEN_FILE = "tiktoken.json"

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
            TokenizerError: tiktoken knows no such encoding, or it can't be fetched.
        """
        try:
            return cls(tiktoken.get_encoding(name))
        except ValueError as error:
            names = ", ".join(tiktoken.list_encoding_names())
            raise TokenizerError(f"tiktoken can't provide {name!r}: it knows {names}") from error
        except OSError as error:
            raise TokenizerError(
                f"tiktoken can't fetch the encoding {name!r} ({type(error).__name__}): go online "
                f"once, or load a folder that it was saved to"
            ) from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; a few ids below it may stand for nothing."""
        return self._encoding.n_vocab

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

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`; with `allow_special`, "<|endoftext|>" and its like become their ids.

        Raises:
            TokenizerError: tiktoken gives up, as it does on some very long runs of whitespace.
        """
        if allow_special:
            return _guarded(lambda: self._encoding.encode(text, allowed_special="all"))
        return _guarded(lambda: self._encoding.encode_ordinary(text))

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
        parts = []
        for token_id in checked_ids(ids, self.vocab_size):
            try:
                parts.append(self._encoding.decode_single_token_bytes(token_id))
            except KeyError as error:
                raise unknown_id(token_id, self.vocab_size) from error
        return bytes_to_text(b"".join(parts))

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
