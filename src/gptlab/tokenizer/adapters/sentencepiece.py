"""SentencePiece models behind the same face as our own tokenizer."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import sentencepiece

from gptlab.errors import TokenizerError
from gptlab.tokenizer.files import read_file, write_files
from gptlab.tokenizer.ids import checked_ids, split_special, without_surrogates

SENTENCEPIECE_FILE = "tokenizer.model"


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018) behind the `Tokenizer` protocol.

    SentencePiece normalises text, most models merge runs of spaces, and what their pieces do not
    cover becomes the unknown token: `decode(encode(text)) == text` is not promised. A special id
    is None where the model has none.

    Args:
        model: Path of a `.model` file, or its content.

    Raises:
        TokenizerError: The file can't be read, or is no SentencePiece model.
    """

    def __init__(self, model: bytes | str | Path) -> None:
        self._model = model if isinstance(model, bytes) else read_file(Path(model))
        name = "these bytes" if isinstance(model, bytes) else str(model)
        self._processor = _processor(self._model, name)
        self._special_ids = {
            self._processor.id_to_piece(i): i
            for i in range(self.vocab_size)
            if self._processor.is_control(i)
        }

    @property
    def vocab_size(self) -> int:
        """Number of pieces in the model, special ones included."""
        return int(self._processor.get_piece_size())

    @property
    def pad_id(self) -> int | None:
        """Id of the padding piece."""
        return _id_or_none(self._processor.pad_id())

    @property
    def unk_id(self) -> int | None:
        """Id of the piece for what the model does not cover."""
        return _id_or_none(self._processor.unk_id())

    @property
    def bos_id(self) -> int | None:
        """Id of the piece that begins a sequence."""
        return _id_or_none(self._processor.bos_id())

    @property
    def eos_id(self) -> int | None:
        """Id of the piece that ends a document."""
        return _id_or_none(self._processor.eos_id())

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`; with `allow_special`, control pieces such as "</s>" become their ids."""
        if not allow_special:
            return [int(i) for i in self._processor.encode(without_surrogates(text))]
        ids: list[int] = []
        for part in split_special(text, self._special_ids):
            ids += [part] if isinstance(part, int) else self.encode(part)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; control pieces give nothing.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        return str(self._processor.decode(checked_ids(ids, self.vocab_size)))

    def save(self, folder: str | Path) -> None:
        """Write the model to `tokenizer.model`.

        Raises:
            TokenizerError: The folder can't be written.
        """
        write_files(folder, {SENTENCEPIECE_FILE: self._model})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Rebuild a tokenizer from the `tokenizer.model` in `folder`.

        Raises:
            TokenizerError: The file is missing, or is no SentencePiece model.
        """
        return cls(Path(folder) / SENTENCEPIECE_FILE)

    def fingerprint(self) -> str:
        """SHA-256 hex digest of the model file."""
        return hashlib.sha256(self._model).hexdigest()


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    # An empty model is valid to the library, which then complains at every call instead.
    try:
        if model:
            return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise _no_model(name) from error
    raise _no_model(name)


def _no_model(name: str) -> TokenizerError:
    return TokenizerError(
        f"{name} can't be read as a SentencePiece model: "
        f"give the .model file that its training wrote"
    )


def _id_or_none(piece_id: int) -> int | None:
    return piece_id if piece_id >= 0 else None
