"""A tokenizer as a GGUF file has it, so that llama.cpp cuts text into the same ids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gptlab.errors import ExportError
from gptlab.tokenizer import BPETokenizer, Tokenizer
from gptlab.tokenizer.adapters import SentencePieceTokenizer
from gptlab.tokenizer.chat import ChatTemplate, to_jinja
from gptlab.tokenizer.chunks.steps import NamedSplit, Split, Step
from gptlab.tokenizer.formats.definition import Definition
from gptlab.tokenizer.formats.sentencepiece_file import Kind, Model, Piece, read_model

_PREFIX = "tokenizer.ggml."
# Split patterns that llama.cpp has under a name. It has that of "gpt4" under several: "dbrx" goes
# by the merges alone, and "llama-bpe" first looks whether a chunk is a token.
_QWEN2 = Split(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: Mapping[tuple[Step, ...], str] = {
    (NamedSplit("gpt2"),): "gpt-2",
    (NamedSplit("gpt4"),): "dbrx",
    (Split(r"\p{N}"), NamedSplit("gpt2")): "smollm",
    (_QWEN2,): "qwen2",
}
_NEAREST = "dbrx"
_WITH_WHOLE_CHUNKS = {"dbrx": "llama-bpe"}


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of a tokenizer, and where llama.cpp is not quite like it."""

    keys: Mapping[str, Any]
    notes: tuple[str, ...]


def vocabulary(
    tokenizer: Tokenizer, *, size: int, chat_template: ChatTemplate | None = None
) -> Vocabulary:
    """The keys of a file for a tokenizer, padded to the model's `size`, and for conversations.

    Raises:
        ExportError: It is of a kind that llama.cpp does not know.
    """
    if isinstance(tokenizer, BPETokenizer):
        keys, notes = _byte_level(tokenizer.definition, size)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        keys, notes = _sentencepiece(tokenizer, size)
    else:
        raise ExportError(
            f"a GGUF file has a byte-level BPE or a SentencePiece model, not a "
            f"{type(tokenizer).__name__}; train with one of those, or export as onnx"
        )
    roles = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "unknown_token_id": tokenizer.unk_id,
        "padding_token_id": tokenizer.pad_id,
    }
    keys |= {name: token_id for name, token_id in roles.items() if token_id is not None}
    document = {_PREFIX + name: value for name, value in keys.items()}
    if chat_template is not None:
        document["tokenizer.chat_template"] = to_jinja(chat_template)
    return Vocabulary(document, tuple(notes))


def _byte_level(definition: Definition, size: int) -> tuple[dict[str, Any], list[str]]:
    names = {token_id: token for token, token_id in definition.ids().items()}
    kinds = {
        token.id: Kind.CONTROL if token.special else Kind.USER_DEFINED
        for token in definition.added_tokens
    }
    pattern, notes = _pattern(definition)
    return {
        "model": "gpt2",
        "pre": pattern,
        "tokens": [names.get(i, f"[UNUSED{i}]") for i in range(size)],
        "token_type": [
            int(kinds.get(i, Kind.NORMAL if i in names else Kind.UNUSED)) for i in range(size)
        ],
        "merges": [f"{left} {right}" for left, right in definition.merges],
        "add_bos_token": _begins_with_bos(definition),
        "add_eos_token": False,
        "add_space_prefix": False,
    }, notes


def _pattern(definition: Definition) -> tuple[str, list[str]]:
    """llama.cpp's name of the split pattern, and what is different there."""
    notes = []
    pattern = _PATTERNS.get(definition.steps)
    if pattern is None:
        pattern = _NEAREST
        notes.append(
            f"llama.cpp has no name for this tokenizer's split pattern and is told '{pattern}': "
            "it cuts some texts into other tokens"
        )
    if definition.normalizers:
        names = ", ".join(definition.normalizers)
        notes.append(f"llama.cpp does not normalise text ({names}): give it normalised text")
    if definition.ignore_merges:
        pattern = _WITH_WHOLE_CHUNKS.get(pattern, pattern)
    return pattern, notes


def _begins_with_bos(definition: Definition) -> bool:
    """Whether the files that the tokenizer is from put its first token before every text."""
    processor = (definition.frame or {}).get("post_processor") or {}
    parts = processor.get("processors", [processor])
    begins = [part["single"][0] for part in parts if part.get("single")]
    bos = definition.role_tokens()["bos"]
    return any(item.get("SpecialToken", {}).get("id") == bos for item in begins)


def _sentencepiece(
    tokenizer: SentencePieceTokenizer, size: int
) -> tuple[dict[str, Any], list[str]]:
    model = read_model(tokenizer.model_bytes)
    added = {
        token.id: Piece(token.content, 0.0, Kind.CONTROL if token.special else Kind.USER_DEFINED)
        for token in tokenizer.added_tokens
        if token.id >= len(model.pieces)
    }
    beyond = range(len(model.pieces), size)
    pieces = [
        *model.pieces,
        *(added.get(i, Piece(f"[UNUSED{i}]", 0.0, Kind.UNUSED)) for i in beyond),
    ]
    is_bpe = model.algorithm == "bpe"
    return {
        # Byte pairs by score, or the likeliest cut of all.
        "model": "llama" if is_bpe else "t5",
        "tokens": [piece.text for piece in pieces],
        "scores": [piece.score for piece in pieces],
        "token_type": [int(piece.kind) for piece in pieces],
        "add_bos_token": False,
        "add_eos_token": False,
        "add_space_prefix": model.adds_space,
        "remove_extra_whitespaces": model.trims_spaces,
    }, list(_sentencepiece_notes(model))


def _sentencepiece_notes(model: Model) -> Iterator[str]:
    if model.normalizes:
        yield "llama.cpp does not normalise text as this SentencePiece model does"
    if model.algorithm != "bpe":
        yield "llama.cpp makes <UNK> of characters that have no piece, where this one has bytes"
