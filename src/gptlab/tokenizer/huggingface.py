"""A BPE tokenizer as the files that Hugging Face's libraries read, and back.

`tokenizer.json` says everything and is what gptlab itself loads; the other files repeat parts of
it for tools that look for them. Bytes are spelled in GPT-2's alphabet, in which each of the 256
bytes is one printable character (Radford et al. 2019).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.files import read_json, to_json
from gptlab.tokenizer.patterns import SPLIT_PATTERNS

Merges = Sequence[tuple[bytes, bytes]]

TOKENIZER_FILE = "tokenizer.json"

# Adds nothing; transformers would put it in when it saves the tokenizer again.
_NO_POST_PROCESSING = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def _byte_alphabet() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet = []
    stand_in = 0x100
    for byte in range(256):
        alphabet.append(chr(byte if byte in printable else stand_in))
        stand_in += byte not in printable
    return alphabet


_BYTE_TO_CHARACTER = _byte_alphabet()
_CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(_BYTE_TO_CHARACTER)}


def folder_files(merges: Merges, pattern: str) -> dict[str, bytes]:
    """The name and content of each file, the one that gptlab loads last."""
    document = tokenizer_document(merges, pattern)
    pairs = [f"{left} {right}\n" for left, right in document["model"]["merges"]]
    pad, unk, bos, eos = SPECIAL_TOKENS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "unk_token": unk,
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "vocab.json": to_json(document["model"]["vocab"]),
        "merges.txt": "".join(["#version: 0.2\n", *pairs]).encode(),
        "tokenizer_config.json": to_json(config),
        TOKENIZER_FILE: to_json(document),
    }


def tokenizer_document(merges: Merges, pattern: str) -> dict[str, Any]:
    """The content of `tokenizer.json`, part by part as the `tokenizers` library writes it."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": SPLIT_PATTERNS[pattern]},
        "behavior": "Isolated",
        "invert": False,
    }
    spelled_merges = [[_spell(left), _spell(right)] for left, right in merges]
    tokens = [*_BYTE_TO_CHARACTER, *map("".join, spelled_merges), *SPECIAL_TOKENS]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(first_id=len(tokens) - len(SPECIAL_TOKENS)),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": _NO_POST_PROCESSING,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": spelled_merges,
        },
    }


def read_tokenizer(folder: Path) -> tuple[list[tuple[bytes, bytes]], str]:
    """The merges and the name of the split pattern in a folder's `tokenizer.json`.

    Raises:
        TokenizerError: The file is missing or garbled, or describes another kind of tokenizer
            than the one that `tokenizer_document` would write for these merges.
    """
    path = folder / TOKENIZER_FILE
    document = read_json(path)
    try:
        steps = document["pre_tokenizer"]["pretokenizers"]
        expression = steps[0]["pattern"]["Regex"]
        merges = [(_bytes(left), _bytes(right)) for left, right in document["model"]["merges"]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _foreign(path, "its split pattern or merges are missing or garbled") from error
    names = [name for name, known in SPLIT_PATTERNS.items() if known == expression]
    if not names:
        raise _foreign(path, f"its split pattern is none of {', '.join(SPLIT_PATTERNS)}")
    expected = tokenizer_document(merges, names[0])
    for part in {**expected, **document}:
        if part not in document or part not in expected or document[part] != expected[part]:
            raise _foreign(path, f"its part {part!r} differs from what gptlab writes")
    return merges, names[0]


def _added_tokens(*, first_id: int) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": True}
        for i, token in enumerate(SPECIAL_TOKENS, first_id)
    ]


def _spell(data: bytes) -> str:
    return "".join(_BYTE_TO_CHARACTER[byte] for byte in data)


def _bytes(spelled: str) -> bytes:
    return bytes(_CHARACTER_TO_BYTE[character] for character in spelled)


def _foreign(path: Path, problem: str) -> TokenizerError:
    return TokenizerError(
        f"{path} is no gptlab BPE tokenizer: {problem}; load a folder that a tokenizer was saved "
        f"to, or train one with gptlab-tokenize --train corpus.txt"
    )
