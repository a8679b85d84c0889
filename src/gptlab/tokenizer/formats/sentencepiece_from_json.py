"""The SentencePiece model that a `tokenizer.json` was made of, made anew from that file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from gptlab.errors import TokenizerError
from gptlab.tokenizer.files import read_json
from gptlab.tokenizer.formats.companions import named_roles
from gptlab.tokenizer.formats.definition import AddedToken
from gptlab.tokenizer.formats.huggingface_steps import shown
from gptlab.tokenizer.formats.roles import Role, role_tokens
from gptlab.tokenizer.formats.sentencepiece_file import SPACE_MARK, Kind, Model, Piece, write_model

Metaspace = Literal["never", "first", "always"]

METASPACES: tuple[Metaspace, ...] = get_args(Metaspace)
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}
_DECODERS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


class Found(NamedTuple):
    """What a `tokenizer.json` says."""

    model: bytes
    added_tokens: list[AddedToken]
    metaspace: Metaspace | None
    """Which texts get a space in front; None for those for which the model does it."""
    roles: dict[Role, str | None]


def read_sentencepiece_json(path: Path) -> Found:
    """The SentencePiece model, of the kind BPE, in a `tokenizer.json`.

    Raises:
        TokenizerError: The file is missing or garbled, or holds another kind of tokenizer.
    """
    document = read_json(path)
    try:
        return _found(document, path.parent)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _foreign(path, f"a part is missing or garbled ({error!r})") from error
    except ValueError as error:
        raise _foreign(path, str(error)) from error


def _found(document: dict[str, Any], folder: Path) -> Found:
    part = document["model"]
    if part.get("type") != "BPE":
        raise ValueError(f"its model is of type {part.get('type')!r}, not 'BPE'")
    for feature in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if part.get(feature):
            raise ValueError(f"its model has {feature} {shown(part[feature])}")
    if not part.get("byte_fallback") and not part.get("fuse_unk"):
        raise ValueError("its model has neither byte_fallback nor fuse_unk")
    metaspace = _metaspace(document)
    added = [AddedToken(**token) for token in document.get("added_tokens") or ()]
    pieces = _pieces(part, added)
    model = Model(
        pieces,
        "bpe",
        byte_fallback=bool(part.get("byte_fallback")),
        adds_space=metaspace is None,
        trims_spaces=False,
    )
    names = {i: piece.text for i, piece in enumerate(pieces)}
    roles = named_roles(folder, names | {token.id: token.content for token in added})
    ids = {"unk": next(i for i, piece in enumerate(pieces) if piece.kind == Kind.UNKNOWN)}
    return Found(write_model(model, roles=ids), added, metaspace, roles)


def _metaspace(document: Mapping[str, Any]) -> Metaspace | None:
    """How spaces are made pieces; None where each text gets one in front, whatever it begins with.

    Raises:
        ValueError: In a way that neither SentencePiece nor gptlab knows.
    """
    normalizer, cutter = document.get("normalizer"), document.get("pre_tokenizer")
    if odd := {step["type"] for step in _steps(document.get("decoder"), "decoders")} - _DECODERS:
        raise ValueError(f"its decoder has {min(odd)!r}")
    steps = [_bare(step) for step in _steps(normalizer, "normalizers")]
    if cutter is None and steps in ([_PREPEND, _REPLACE], [_REPLACE]):
        return None if _PREPEND in steps else "never"
    if cutter is None or cutter["type"] != "Metaspace" or steps:
        raise ValueError(
            f"it goes from {shown(normalizer)} to {shown(cutter)}, which is no byte-level BPE and "
            f"no SentencePiece model"
        )
    scheme: Metaspace = cutter.get("prepend_scheme", "always")
    if cutter.get("split", True) or cutter["replacement"] != SPACE_MARK or scheme not in METASPACES:
        raise ValueError(f"its pre_tokenizer is {shown(cutter)}")
    return scheme


def _steps(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    if part is not None:
        yield from part[key] if part["type"] == "Sequence" else [part]


def _bare(step: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if value is not None}


def _pieces(part: Mapping[str, Any], added: list[AddedToken]) -> list[Piece]:
    """The vocabulary, without tokens that were added behind it.

    Raises:
        ValueError: It is not that of a SentencePiece model.
    """
    vocab: dict[str, int] = part["vocab"]
    beside = {token.content: token for token in added}
    size = 1 + max(i for name, i in vocab.items() if name not in beside)
    names = {i: name for name, i in vocab.items() if i < size}
    if len(names) < size or min(names) < 0:
        raise ValueError(f"its {len(names)} tokens do not have the ids from 0 to {size - 1}")
    # Where there are bytes it never comes, and may be left out; but a model must have one.
    unknown = str(part.get("unk_token") or role_tokens({}, vocab)["unk"])
    if vocab.get(unknown, size) >= size:
        raise ValueError(f"its unk_token {unknown!r} is not in its vocabulary")
    special = {token.content for token in added if token.special}
    kinds: dict[str, Kind] = {
        **dict.fromkeys(special, Kind.CONTROL),
        **(dict.fromkeys(_BYTES, Kind.BYTE) if part.get("byte_fallback") else {}),
        unknown: Kind.UNKNOWN,
    }
    if part.get("byte_fallback") and (lacking := _BYTES - vocab.keys()):
        raise ValueError(f"its vocabulary lacks the byte {min(lacking)}")
    normal = {name for name in names.values() if name not in kinds}
    order = _order(part["merges"], normal)
    return [
        Piece(names[i], -float(order.get(names[i], len(order))), kinds.get(names[i], Kind.NORMAL))
        for i in range(size)
    ]


def _order(merges: list[Any], normal: set[str]) -> dict[str, int]:
    """The rank of each piece that is merged, where the merges are all that make pieces, in order.

    SentencePiece joins two neighbours whenever that makes a piece, the best piece first.

    Raises:
        ValueError: They are not.
    """
    order: dict[str, int] = {}
    last = None
    pairs = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges
    ]
    for left, right in pairs:
        if left + right != last and left + right in order:
            raise ValueError(f"its merges come back to {left + right!r} after others")
        last = left + right
        order.setdefault(last, len(order))
    known = set(pairs)
    for piece in normal:
        cuts = {(piece[:i], piece[i:]) for i in range(1, len(piece))}
        lacking = {pair for pair in cuts if normal.issuperset(pair)} - known
        if lacking or not normal.issuperset(piece):
            raise ValueError(f"not all that could make {piece!r} is among its merges")
    return order


def _foreign(path: Path, problem: str) -> TokenizerError:
    return TokenizerError(
        f"{path} is no tokenizer that gptlab reads: {problem}; put the SentencePiece model that it "
        f"was made of, tokenizer.model, beside it, or choose another tokenizer"
    )
