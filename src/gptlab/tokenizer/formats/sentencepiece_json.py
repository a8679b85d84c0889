"""A SentencePiece model as the `tokenizer.json` that gives its ids to Hugging Face's libraries."""

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gptlab.tokenizer.formats.definition import AddedToken
from gptlab.tokenizer.formats.huggingface import added_token
from gptlab.tokenizer.formats.sentencepiece_file import SPACE_MARK, Kind, Model
from gptlab.tokenizer.formats.sentencepiece_from_json import Metaspace

# Of a piece that no text is to have. The library also finds those of other kinds in a text.
_NEVER = -1e4
_SPELLS_BYTES = set("<0x>" + string.digits + "ABCDEF")


def document_of(
    model: Model,
    added_tokens: Iterable[AddedToken],
    *,
    keeps_mark: bool,
    metaspace: Metaspace | None = None,
) -> dict[str, Any]:
    """The content of a `tokenizer.json`.

    A BPE gives the same ids. A unigram model does but where two ways to cut a text are equally
    likely: SentencePiece adds logarithms in 32 bits, the others in 64, and either may be ahead.

    Args:
        model: The model.
        added_tokens: What is looked for before the model sees a text.
        keeps_mark: Whether U+2581 in a text is not a space, but told from it by its bytes.
        metaspace: Which stretches of text get a space in front; None where the model decides.

    Raises:
        ValueError: The model does what Hugging Face's libraries can't do alike.
    """
    added_tokens = sorted(added_tokens, key=lambda token: token.id)
    _check(model, added_tokens)
    names = [
        piece.text.replace(SPACE_MARK, " ") if keeps_mark else piece.text for piece in model.pieces
    ]
    scores = {
        name: piece.score
        for name, piece in zip(names, model.pieces, strict=True)
        if piece.kind == Kind.NORMAL
    }
    unknown = next(i for i, piece in enumerate(model.pieces) if piece.kind == Kind.UNKNOWN)
    part, pre_tokenizer = (
        (_bpe(model, _with_ids(names, added_tokens), scores, unknown), None)
        if model.algorithm == "bpe"
        else (_unigram(model, names, scores, unknown), _apart(model, scores))
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token) for token in added_tokens],
        "normalizer": None if keeps_mark or metaspace else _marking(model),
        "pre_tokenizer": _metaspace(metaspace) if metaspace else pre_tokenizer,
        "post_processor": None,
        "decoder": _decoder(
            keeps_mark=keeps_mark, strips=model.adds_space or metaspace in ("first", "always")
        ),
        "model": part,
    }


def _check(model: Model, added_tokens: Sequence[AddedToken]) -> None:
    """See that the libraries can do what the model does."""
    pieces = [piece.text for piece in model.pieces]
    beyond = [token for token in added_tokens if token.id >= len(pieces)]
    problem = None
    if taken := [t for t in added_tokens if t not in beyond and t.content != pieces[t.id]]:
        problem = f"its token {taken[0].content!r} has the id of {pieces[taken[0].id]!r}"
    elif model.algorithm == "unigram" and (
        [token.id for token in beyond] != list(range(len(pieces), len(pieces) + len(beyond)))
    ):
        problem = "ids are missing between its added tokens"
    elif model.algorithm == "other":
        problem = "its algorithm is neither BPE nor unigram"
    elif model.normalizes:
        problem = "it normalises text by rules of its own"
    elif model.trims_spaces:
        problem = "it makes one space of several"
    elif model.is_reversed:
        problem = "its spaces end words"
    elif odd := [piece for piece in model.pieces if piece.kind in (Kind.USER_DEFINED, Kind.UNUSED)]:
        problem = f"its piece {odd[0].text!r} is {odd[0].kind.name.lower().replace('_', ' ')}"
    else:
        normal = model.normal()
        alone = {text for text in normal if len(text) == 1}
        if lacking := sorted(set("".join(normal)) - alone):
            problem = f"{lacking[0]!r} is in a piece, but none itself"
        elif model.algorithm == "bpe":
            merged = [score for text, score in normal.items() if len(text) > 1]
            if len(set(merged)) < len(merged):
                problem = "two of its pieces have one score"
    if problem:
        raise ValueError(problem)


def _with_ids(names: Sequence[str], added_tokens: Sequence[AddedToken]) -> dict[str, int]:
    """The id of each name; the libraries number added tokens that are not here by themselves."""
    ids = {name: token_id for token_id, name in enumerate(names)}
    return ids | {token.content: token.id for token in added_tokens}


def _bpe(
    model: Model, ids: Mapping[str, int], scores: Mapping[str, float], unknown: int
) -> dict[str, Any]:
    """The model by the pairs that make its pieces, those of the best piece first."""
    merges = [
        [piece[:place], piece[place:]]
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for place in range(1, len(piece))
        if piece[:place] in scores and piece[place:] in scores
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
    }


def _unigram(
    model: Model, names: Sequence[str], scores: Mapping[str, float], unknown: int
) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[name, scores.get(name, _NEVER)] for name in names],
        "byte_fallback": model.byte_fallback,
    }


def _apart(model: Model, scores: Mapping[str, float]) -> dict[str, Any] | None:
    """What keeps the name of a byte, in a text, from being read as that byte.

    Letter by letter it is likelier, if the letters are pieces. What is in no piece is cut off.
    """
    if not model.byte_fallback or not (missing := sorted(_SPELLS_BYTES - scores.keys())):
        return None
    pattern = {"Regex": f"[{''.join(missing)}]"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _marking(model: Model) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    if not model.adds_space:
        return replace
    prepend = {"type": "Prepend", "prepend": SPACE_MARK}
    return {"type": "Sequence", "normalizers": [prepend, replace]}


def _metaspace(scheme: Metaspace) -> dict[str, Any]:
    return {
        "type": "Metaspace",
        "replacement": SPACE_MARK,
        "prepend_scheme": scheme,
        "split": False,
    }


def _decoder(*, keeps_mark: bool, strips: bool) -> dict[str, Any]:
    decoders: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if not keeps_mark:
        spaces = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
        decoders.insert(0, spaces)
    if strips:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": decoders}
