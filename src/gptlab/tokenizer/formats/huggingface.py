"""A byte-level BPE as the files that Hugging Face's libraries read, and back.

`tokenizer.json` says everything and is what gptlab itself loads; the other files repeat parts of
it for tools that look for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptlab.errors import TokenizerError
from gptlab.tokenizer.chunks.steps import NamedSplit, Split
from gptlab.tokenizer.files import read_file, read_json, to_json
from gptlab.tokenizer.formats.alphabet import BYTE_TO_CHARACTER, spelled_bytes
from gptlab.tokenizer.formats.companions import CONFIG_FILE, named_roles
from gptlab.tokenizer.formats.definition import AddedToken, Definition
from gptlab.tokenizer.formats.huggingface_steps import read_normalizers, read_steps, shown
from gptlab.tokenizer.formats.roles import Role

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

_VERSION = "#version: 0.2"
# What must be off in a model for its tokens to be bytes and its merges to be followed.
_MODEL_FEATURES = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
# Bytes that no text in UTF-8 has.
_UNUSED_BYTES = {0xC0, 0xC1, *range(0xF5, 0x100)}

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
# Adds nothing; transformers would put it in when it saves the tokenizer again.
_NO_POST_PROCESSING = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def folder_files(definition: Definition) -> dict[str, bytes]:
    """The name and content of each file, the one that gptlab loads last."""
    document = tokenizer_document(definition)
    pairs = [f"{left} {right}\n" for left, right in definition.merges]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": name for role, name in definition.role_tokens().items()},
        "clean_up_tokenization_spaces": False,
    }
    return {
        VOCAB_FILE: to_json(document["model"]["vocab"]),
        MERGES_FILE: "".join([f"{_VERSION}\n", *pairs]).encode(),
        CONFIG_FILE: to_json(config),
        TOKENIZER_FILE: to_json(document),
    }


def tokenizer_document(definition: Definition) -> dict[str, Any]:
    """The content of `tokenizer.json`, part by part as the `tokenizers` library writes it."""
    frame = _own_frame(definition) if definition.frame is None else definition.frame
    model = {
        **frame["model"],
        "vocab": dict(definition.vocab),
        "merges": [list(merge) for merge in definition.merges],
    }
    parts = {
        "added_tokens": [added_token(token) for token in definition.added_tokens],
        "normalizer": _normalizer(definition, frame["normalizer"]),
        "model": model,
    }
    return {**frame, **parts}


def _normalizer(definition: Definition, written: Mapping[str, Any] | None) -> Any:
    """The part "normalizer": as it was written, unless that is not what the definition says."""
    if read_normalizers(written) == definition.normalizers:
        return written
    parts = [{"type": name} for name in definition.normalizers]
    return parts[0] if len(parts) == 1 else {"type": "Sequence", "normalizers": parts}


def added_token(token: AddedToken) -> dict[str, Any]:
    """An entry of the part "added_tokens"."""
    fields = asdict(token)
    order = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: fields[name] for name in order}


def _own_frame(definition: Definition) -> dict[str, Any]:
    splits = [
        {
            "type": "Split",
            "pattern": {"Regex": step.expression},
            "behavior": "Isolated",
            "invert": False,
        }
        for step in definition.steps
        if isinstance(step, NamedSplit | Split)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": None,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _BYTE_LEVEL]},
        "post_processor": _NO_POST_PROCESSING,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": definition.ignore_merges,
        },
    }


def read_tokenizer_json(path: Path) -> Definition:
    """The byte-level BPE in a `tokenizer.json`, and the roles that the files beside it name.

    The parts that encoding a text alone does not need, such as the post_processor, are kept for
    `tokenizer_document` and otherwise ignored.

    Raises:
        TokenizerError: A file is missing or garbled, or it is another kind of tokenizer.
    """
    document = read_json(path)
    try:
        return _definition(document, path.parent)
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(path, f"a part is missing or garbled ({error!r})") from error
    except (ValueError, TokenizerError) as error:
        raise _foreign(path, str(error)) from error


def read_vocab_and_merges(folder: Path) -> Definition:
    """GPT-2's tokenizer from its two files `vocab.json` and `merges.txt`.

    Text is cut as GPT-2 does it, and "<|endoftext|>" is special if it is in the vocabulary.

    Raises:
        TokenizerError: A file is missing or garbled.
    """
    path = folder / MERGES_FILE
    vocab = read_json(folder / VOCAB_FILE)
    try:
        lines = read_file(path).decode("utf-8").splitlines()
        added_tokens = tuple(
            AddedToken(name, vocab[name]) for name in ("<|endoftext|>",) if name in vocab
        )
        return Definition(
            vocab=vocab,
            merges=_merges([line for line in lines if line]),
            added_tokens=added_tokens,
            steps=(NamedSplit("gpt2"),),
            roles=_roles(folder, vocab, added_tokens),
        )
    except (ValueError, TokenizerError) as error:
        raise _foreign(path, str(error)) from error


def _roles(
    folder: Path, vocab: Mapping[str, int], added_tokens: Iterable[AddedToken]
) -> dict[Role, str | None]:
    names = {token_id: name for name, token_id in vocab.items()}
    return named_roles(folder, names | {token.id: token.content for token in added_tokens})


def _definition(document: dict[str, Any], folder: Path) -> Definition:
    model = dict(document["model"])
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is of type {model['type']!r}, not 'BPE'")
    for feature in _MODEL_FEATURES:
        if model.get(feature):
            raise ValueError(f"its model has {feature} {shown(model[feature])}")
    if (document.get("decoder") or _BYTE_LEVEL)["type"] != "ByteLevel":
        raise ValueError(f"its decoder is {shown(document['decoder'])}, not ByteLevel")
    vocab, merges = dict(model.pop("vocab")), model.pop("merges")
    _check_bytes(vocab, model.get("unk_token"))
    added_tokens = _added_tokens(document.get("added_tokens") or [], vocab)
    return Definition(
        vocab=vocab,
        merges=_merges(merges),
        added_tokens=added_tokens,
        steps=read_steps(document["pre_tokenizer"]),
        normalizers=read_normalizers(document.get("normalizer")),
        ignore_merges=bool(model.get("ignore_merges")),
        roles=_roles(folder, vocab, added_tokens),
        frame={
            **document,
            "normalizer": document.get("normalizer"),
            "added_tokens": None,
            "model": model,
        },
    )


def _merges(merges: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Merges as pairs, from pairs or from lines with a space in the middle."""
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or not all(map(spelled_bytes, pair)):
            raise ValueError(f"its merge {len(pairs)} is {shown(merge)}, no two tokens in bytes")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _added_tokens(items: list[dict[str, Any]], vocab: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """The added tokens; those that Hugging Face reads with another id than the file's are refused.

    It takes the id from the vocabulary, and counts on for tokens that are not there.
    """
    tokens = tuple(AddedToken(**item) for item in items)
    highest = -1
    for token in tokens:
        next_id = highest + 1 if highest >= len(vocab) else len(vocab)
        expected = vocab.get(token.content, next_id)
        if token.id != expected:
            raise ValueError(
                f"its added token {token.content!r} has the id {token.id}, but Hugging Face's "
                f"libraries number it {expected}"
            )
        highest = max(highest, token.id)
    return tokens


def _check_bytes(vocab: Mapping[str, int], unk_token: str | None) -> None:
    # Hugging Face leaves bytes out that no token stands for, and so do we, but for this one case.
    missing = [
        byte
        for byte, character in enumerate(BYTE_TO_CHARACTER)
        if character not in vocab and byte not in _UNUSED_BYTES
    ]
    if missing and unk_token in vocab:
        raise ValueError(f"its vocabulary has {unk_token!r} in place of the byte {missing[0]:#04x}")


def _foreign(path: Path, problem: str) -> TokenizerError:
    return TokenizerError(
        f"{path} is no byte-level BPE that gptlab reads: {problem}; load another tokenizer, or "
        f"train one with gptlab-tokenize --train corpus.txt"
    )
