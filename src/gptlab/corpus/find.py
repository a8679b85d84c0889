"""The files of a folder that are texts."""

import os
from collections.abc import Iterator
from pathlib import Path

from gptlab.corpus.compression import NotTextError
from gptlab.corpus.formats import TextErrors, check
from gptlab.errors import DataError

# gptlab-tokenize saves beside a text, which may be within a folder of texts.
_TOKENIZER_SIGNS = {"tokenizer.json", "tokenizer_config.json"}
_TOKENIZER_FILES = _TOKENIZER_SIGNS | {"tokenizer.tiktoken", "merges.txt", "vocab.json"}

# gptlab-train writes where it is called, which may be within a folder of texts as well.
_RUN_SIGNS = {"config.json", "metrics.jsonl"}


def find_texts(root: Path, *, errors: TextErrors) -> tuple[list[Path], int]:
    """The texts at `root`, a file or a folder, and how many files of a folder are none.

    Of a folder, hidden files and folders are left out, runs, saved tokenizers and empty files too.

    Raises:
        DataError: There is nothing at `root`, a pipe or a device, or no text in it.
    """
    if root.is_file():
        if root.stat().st_size == 0:
            raise DataError(f"{root} is empty; give a file with text in it")
        return [root], 0
    if not root.exists():
        raise DataError(f"{root} does not exist; give a text file or a folder of text files")
    if not root.is_dir():
        raise DataError(
            f"{root} is no regular file; write the text to a file first, as it is read repeatedly"
        )
    found = [file for file in sorted(_files_under(root)) if file.stat().st_size > 0]
    texts = [file for file in found if _is_text(file, errors)]
    if not texts:
        raise DataError(f"{root} holds no text file; give a folder with UTF-8 text files in it")
    return texts, len(found) - len(texts)


def _files_under(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        if set(names) >= _RUN_SIGNS:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        passed_over = _TOKENIZER_FILES if set(names) >= _TOKENIZER_SIGNS else set()
        for name in names:
            file = Path(parent, name)
            if name not in passed_over and not name.startswith(".") and file.is_file():
                yield file


def _is_text(file: Path, errors: TextErrors) -> bool:
    try:
        check(file, errors=errors)
    except NotTextError:
        return False
    return True
