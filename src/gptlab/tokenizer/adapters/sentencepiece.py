"""SentencePiece models behind the same face as our own tokenizer."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import regex
import sentencepiece
from numpy.typing import NDArray

from gptlab.errors import TokenizerError
from gptlab.tokenizer.adapters.shared import refuse_dropout
from gptlab.tokenizer.base import SpecialNames, TokenArray, token_dtype
from gptlab.tokenizer.files import read_file, write_files
from gptlab.tokenizer.ids import checked_ids, without_surrogates
from gptlab.tokenizer.special import allowed_names

SENTENCEPIECE_FILE = "tokenizer.model"
SPACE_MARK = "\u2581"
# Compatibility characters, of which every usual normalisation makes others.
_NORMALISED = "\ufb01\u2460\uff21"


class Piece(NamedTuple):
    """A piece of a model, as its file has it."""

    text: str
    """With U+2581 for a space."""
    score: float
    """Logarithm of its probability, or minus the number of its merge."""
    kind: Literal["normal", "unknown", "control", "byte", "unused"]


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018) behind the `Tokenizer` protocol.

    `decode(encode(text)) == text` holds for models of `train_sentencepiece`, lone surrogates
    apart. Others promise less: most normalise text and merge runs of spaces, what their pieces do
    not cover becomes the unknown token, and U+2581, which is SentencePiece's mark for a space,
    comes back as one. A special id is None where the model has none.

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
            if self._processor.is_control(i) or self._processor.is_unknown(i)
        }
        self._mark_ids = _mark_ids(self._processor)

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

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each control piece, and of the one for what the model does not cover."""
        return dict(self._special_ids)

    def pieces(self) -> list[Piece]:
        """Every piece, by id."""
        processor = self._processor
        return [
            Piece(str(processor.id_to_piece(i)), float(processor.get_score(i)), _kind(processor, i))
            for i in range(self.vocab_size)
        ]

    @property
    def adds_space(self) -> bool:
        """Whether the model puts a space before every text."""
        return self._shown("a").startswith(SPACE_MARK)

    @property
    def merges_spaces(self) -> bool:
        """Whether several spaces count as one."""
        return SPACE_MARK * 2 not in self._shown("a  a")

    @property
    def normalises(self) -> bool:
        """Whether the model replaces characters by others."""
        return self._shown(_NORMALISED).lstrip(SPACE_MARK) != _NORMALISED

    def _shown(self, text: str) -> str:
        """`text` as the model sees it."""
        return str(self._processor.normalize(text))

    @property
    def divisible(self) -> bool:
        """False: a piece may span any two characters."""
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
            allowed_special: Names of control pieces, such as "</s>", that become their ids, or
                "all"; the others are plain text.
            disallowed_special: Strings that must not be in `text`, or "all" for the control pieces
                that are not allowed.
            dropout: 0; the library's own sampling has one seed for the whole process.
            seed: Of no effect.

        Raises:
            TokenizerError: `text` has a disallowed special token, an allowed one does not exist,
                or `dropout` is not 0.
        """
        refuse_dropout(dropout)
        special = self._special_ids
        allowed = allowed_names(
            text, special, allowed=allowed_special, disallowed=disallowed_special
        )
        ids: list[int] = []
        for part in _split_special(text, {name: special[name] for name in allowed}):
            ids += [part] if isinstance(part, int) else self._plain_ids(part).tolist()
        return ids

    def encode_to_array(self, text: str) -> TokenArray:
        """Ids of `text`, all of it plain: uint16 up to a vocabulary of 65536, else uint32."""
        return self._plain_ids(text).astype(token_dtype(self.vocab_size))

    def _plain_ids(self, text: str) -> NDArray[np.int32]:
        text = without_surrogates(text)
        stretches = text.split(SPACE_MARK) if self._mark_ids.size else [text]
        parts = [self._processor.encode(stretches[0], return_type="numpy")]
        for stretch in stretches[1:]:
            parts += [self._mark_ids, self._processor.encode(stretch, return_type="numpy")]
        return np.concatenate(parts)

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text."""
        return [self.encode_to_array(text) for text in texts]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; control pieces give nothing.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        return str(self._processor.decode(checked_ids(ids, self.vocab_size)))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id adds to a text; of a control or the unknown piece, its name.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        (checked,) = checked_ids([token_id], self.vocab_size)
        piece = str(self._processor.id_to_piece(checked))
        if self._processor.is_byte(checked):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

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


def _mark_ids(processor: sentencepiece.SentencePieceProcessor) -> NDArray[np.int32]:
    """The three bytes of U+2581, where the model tells it from a space by them; else nothing.

    That needs pieces for bytes, and spaces that neither vanish nor are added, so that text can be
    encoded in stretches.
    """
    ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
    spaces = "".join(processor.encode("   ", out_type=str))
    usable = all(map(processor.is_byte, ids)) and spaces == 3 * SPACE_MARK
    return np.array(ids if usable else [], dtype=np.int32)


def _kind(
    processor: sentencepiece.SentencePieceProcessor, piece_id: int
) -> Literal["normal", "unknown", "control", "byte", "unused"]:
    if processor.is_unknown(piece_id):
        return "unknown"
    if processor.is_control(piece_id):
        return "control"
    if processor.is_unused(piece_id):
        return "unused"
    return "byte" if processor.is_byte(piece_id) else "normal"


def _split_special(text: str, special_ids: Mapping[str, int]) -> Iterator[str | int]:
    """The stretches of plain text in `text`, and an id for each special token between them."""
    longest_first = sorted(special_ids, key=len, reverse=True)
    if not longest_first:
        yield text
        return
    for part in regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text):
        if part:
            yield special_ids.get(part, part)


def _no_model(name: str) -> TokenizerError:
    return TokenizerError(
        f"{name} can't be read as a SentencePiece model: "
        f"give the .model file that its training wrote"
    )


def _id_or_none(piece_id: int) -> int | None:
    return piece_id if piece_id >= 0 else None
