"""What a SentencePiece `.model` file says, read and written.

It is a protocol buffer, https://protobuf.dev/programming-guides/encoding/, whose fields are those
of https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

SPACE_MARK = "\u2581"

Value = int | bytes
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_UNIGRAM, _BPE = 1, 2


class Kind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """An entry of the vocabulary."""

    text: str
    score: float = 0.0
    kind: Kind = Kind.NORMAL


@dataclass(frozen=True)
class Model:
    """A SentencePiece model; a piece's id is its place.

    Args:
        pieces: The vocabulary.
        algorithm: "bpe", "unigram", or "other".
        byte_fallback: Whether bytes stand for characters that have no piece.
        adds_space: Whether text gets a space in front.
        trims_spaces: Whether runs of spaces become one, and those at the ends none.
        normalizes: Whether text is changed otherwise, by rules of the model's own.
        is_reversed: Whether spaces end words and don't begin them.
    """

    pieces: Sequence[Piece]
    algorithm: str
    byte_fallback: bool = False
    adds_space: bool = True
    trims_spaces: bool = True
    normalizes: bool = False
    is_reversed: bool = False

    def normal(self) -> dict[str, float]:
        """The score of each piece that text is made of."""
        return {piece.text: piece.score for piece in self.pieces if piece.kind == Kind.NORMAL}


def read_model(data: bytes) -> Model:
    """The model in the content of a file.

    Raises:
        ValueError: It is no such file.
    """
    pieces, trainer, normalizer = [], dict[int, Value](), dict[int, Value]()
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_read_piece(_message(value)))
        elif number == 2:
            trainer = _message(value)
        elif number == 3:
            normalizer = _message(value)
    algorithm = {_UNIGRAM: "unigram", _BPE: "bpe"}.get(int(trainer.get(3, _UNIGRAM)), "other")
    return Model(
        pieces,
        algorithm,
        byte_fallback=bool(trainer.get(35, 0)),
        adds_space=bool(normalizer.get(3, 1)),
        trims_spaces=bool(normalizer.get(4, 1)),
        normalizes=bool(normalizer.get(2) or normalizer.get(6)) or not normalizer.get(5, 1),
        is_reversed=bool(trainer.get(24, 0)),
    )


def write_model(model: Model, *, roles: Mapping[str, int | None]) -> bytes:
    """The content of a file; the model must be a BPE that does not normalise.

    Args:
        model: What to write.
        roles: The ids that the library is to give as those of "unk", "bos", "eos" and "pad".
    """
    content = b"".join(_field(1, _written_piece(piece)) for piece in model.pieces)
    trainer = _field(3, _BPE) + _field(4, len(model.pieces)) + _field(35, int(model.byte_fallback))
    for place, role in enumerate(("unk", "bos", "eos", "pad")):
        token = roles.get(role)
        trainer += _field(40 + place, -1 if token is None else token)
        if token is not None:
            trainer += _field(45 + place, model.pieces[token].text.encode())
    normalizer = _field(1, b"identity")
    normalizer += _field(3, int(model.adds_space)) + _field(4, int(model.trims_spaces))
    return content + _field(2, trainer) + _field(3, normalizer)


def _read_piece(fields: Mapping[int, Value]) -> Piece:
    text, score = fields[1], fields.get(2, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece is garbled")
    return Piece(text.decode(), struct.unpack("<f", score)[0], Kind(int(fields.get(3, 1))))


def _written_piece(piece: Piece) -> bytes:
    score = _varint(2 << 3 | _FOUR_BYTES) + struct.pack("<f", piece.score)
    return _field(1, piece.text.encode()) + score + _field(3, int(piece.kind))


def _message(value: Value) -> dict[int, Value]:
    """Each field of a message; of one that comes several times the last."""
    if not isinstance(value, bytes):
        raise ValueError("a message is a number")
    return dict(_fields(value))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field: a number, or bytes."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _read_varint(data, place)
            yield number, value
            continue
        if wire == _LENGTH:
            size, place = _read_varint(data, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the unknown type {wire}")
        if place + size > len(data):
            raise ValueError("it ends within a field")
        yield number, data[place : place + size]
        place += size


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends."""
    result = shift = 0
    while place < len(data):
        byte = data[place]
        result |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return result, place
    raise ValueError("it ends within a number")


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | _LENGTH) + _varint(len(value)) + value
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])
