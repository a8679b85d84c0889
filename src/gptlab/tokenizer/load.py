"""Open any tokenizer by a folder, a file, or a name."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gptlab.errors import TokenizerError
from gptlab.tokenizer.adapters import (
    SENTENCEPIECE_FILE,
    TIKTOKEN_FILE,
    SentencePieceTokenizer,
    TiktokenTokenizer,
)
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.files import read_file
from gptlab.tokenizer.formats.companions import refuse_foreign_code
from gptlab.tokenizer.formats.huggingface import TOKENIZER_FILE
from gptlab.tokenizer.formats.huggingface_steps import mentions_bytes
from gptlab.tokenizer.formats.sentencepiece_from_json import read_sentencepiece_json
from gptlab.tokenizer.formats.sources import definition_reader
from gptlab.tokenizer.pair import SOURCE_FOLDER, PairTokenizer

Kind = Literal["default", "tiktoken", "sentencepiece"]
Candidates = dict[Kind, Callable[[], Tokenizer]]

_TIKTOKEN_PREFIX = "tiktoken:"
_REMEDY = "train one with gptlab-tokenize --train corpus.txt"


def load_tokenizer(source: str | Path, *, kind: Kind | None = None) -> Tokenizer:
    """Load a tokenizer from wherever it is.

    Args:
        source: A folder that a tokenizer was saved to, by gptlab or others; a `tokenizer.json`, a
            `.tiktoken` or a SentencePiece `.model` file; or "tiktoken:NAME" for one of tiktoken's
            own encodings.
        kind: What is expected: "default" for a byte-level BPE, which gptlab runs itself, "tiktoken"
            (`source` may then be the bare name, as "gpt2"), or "sentencepiece". Anything else is
            an error.

    A folder of two tokenizers, for targets and for sources, gives a `PairTokenizer`.

    Where a folder has a `tokenizer.json` and a SentencePiece model, as others publish them, the
    first counts if it is a byte-level BPE, else the second.

    Raises:
        TokenizerError: There is no tokenizer there, it is damaged, or it is of another kind.
    """
    candidates = _candidates(str(source), kind)
    if kind is not None:
        if kind not in candidates:
            raise TokenizerError(
                f"{source} holds a tokenizer of kind {' and '.join(candidates)}, "
                f"not {kind}: change the kind or the path"
            )
        return _with_source(candidates[kind](), Path(source))
    if len(candidates) > 1 and not _are_one(candidates, str(source)):
        raise TokenizerError(
            f"{source} holds several tokenizers: choose kind={' or kind='.join(candidates)}"
        )
    return _with_source(next(iter(candidates.values()))(), Path(source))


def _with_source(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    if not (folder / SOURCE_FOLDER).is_dir():
        return tokenizer
    return PairTokenizer(tokenizer, load_tokenizer(folder / SOURCE_FOLDER))


def _are_one(candidates: Candidates, source: str) -> bool:
    """Whether these are files of one tokenizer, as others publish it, the first of which says all.

    A `tokenizer.model` is also the name of the ranks beside Llama 3's `tokenizer.json`.
    """
    pair = candidates.keys() == {"default", "sentencepiece"}
    return pair and (Path(source) / TOKENIZER_FILE).is_file()


def _candidates(source: str, kind: Kind | None) -> Candidates:
    """How to load each kind of tokenizer that `source` holds; at least one."""
    path = Path(source)
    if source.startswith(_TIKTOKEN_PREFIX):
        name = source.removeprefix(_TIKTOKEN_PREFIX)
        return {"tiktoken": lambda: TiktokenTokenizer.from_name(name)}
    if path.is_dir():
        return _in_folder(path)
    if definition_reader(path):
        if path.suffix == ".json" and not mentions_bytes(read_file(path)):
            return {"sentencepiece": lambda: _of_json(path)}
        return {"default": lambda: BPETokenizer.load(path)}
    if path.is_file() and path.suffix == ".model":
        return {"sentencepiece": lambda: SentencePieceTokenizer(path)}
    if path.exists():
        raise TokenizerError(
            f"{source} is no tokenizer: give the folder that one was saved to, or {_REMEDY}"
        )
    if kind == "tiktoken":
        return {"tiktoken": lambda: TiktokenTokenizer.from_name(source)}
    raise TokenizerError(f"there is no tokenizer at {source}: check the path, or {_REMEDY}")


def _of_json(file: Path) -> SentencePieceTokenizer:
    found = read_sentencepiece_json(file)
    return SentencePieceTokenizer(
        found.model,
        added_tokens=found.added_tokens,
        roles=found.roles,
        metaspace=found.metaspace,
    )


def _in_folder(folder: Path) -> Candidates:
    candidates: Candidates = {}
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        refuse_foreign_code(folder)
    if definition_reader(folder):
        candidates["default"] = lambda: BPETokenizer.load(folder)
    if (folder / TIKTOKEN_FILE).is_file():
        candidates["tiktoken"] = lambda: TiktokenTokenizer.load(folder)
    models = sorted(folder.glob("*.model"))
    if folder / SENTENCEPIECE_FILE in models:
        models = [folder / SENTENCEPIECE_FILE]
    if file.is_file() and not mentions_bytes(read_file(file)):
        del candidates["default"]
        candidates["sentencepiece"] = lambda: _of_json(file)
    if len(models) == 1:
        candidates["sentencepiece"] = lambda: SentencePieceTokenizer.load(models[0])
    if candidates:
        return candidates
    if models:
        names = ", ".join(model.name for model in models)
        raise TokenizerError(f"{folder} holds several models ({names}): give the path of one")
    raise TokenizerError(
        f"{folder} holds no tokenizer (no tokenizer.json, vocab.json with merges.txt, *.tiktoken, "
        f"{TIKTOKEN_FILE} or *.model): {_REMEDY}"
    )
