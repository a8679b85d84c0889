"""Where a byte-level BPE may come from: which file of a folder says what it is."""

from collections.abc import Callable
from pathlib import Path

from gptlab.errors import TokenizerError
from gptlab.tokenizer.formats.definition import Definition
from gptlab.tokenizer.formats.huggingface import (
    MERGES_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    read_tokenizer_json,
    read_vocab_and_merges,
)
from gptlab.tokenizer.formats.tiktoken_file import read_tiktoken_file


def definition_at(path: Path) -> Definition:
    """The byte-level BPE in a folder or a file.

    Raises:
        TokenizerError: There is none, or it can't be read.
    """
    read = definition_reader(path)
    return read() if read else read_tokenizer_json(path / TOKENIZER_FILE)


def definition_reader(path: Path) -> Callable[[], Definition] | None:
    """What reads the byte-level BPE at `path`; None if there is none.

    In a folder `tokenizer.json` comes first, then GPT-2's pair `vocab.json` and `merges.txt`, then
    a `.tiktoken` file.

    Raises:
        TokenizerError: The folder has several `.tiktoken` files and nothing else.
    """
    if path.is_file() and path.suffix == ".json":
        return lambda: read_tokenizer_json(path)
    if path.is_file() and path.suffix == ".tiktoken":
        return lambda: read_tiktoken_file(path)
    if (path / TOKENIZER_FILE).is_file():
        return lambda: read_tokenizer_json(path / TOKENIZER_FILE)
    if (path / VOCAB_FILE).is_file() and (path / MERGES_FILE).is_file():
        return lambda: read_vocab_and_merges(path)
    files = sorted(path.glob("*.tiktoken"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise TokenizerError(f"{path} holds several tokenizers ({names}): give the path of one")
    return (lambda: read_tiktoken_file(files[0])) if files else None
