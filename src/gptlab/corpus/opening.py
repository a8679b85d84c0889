"""From paths, folders and patterns that a user names to a corpus."""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import get_args

from gptlab.corpus.corpus import Corpus
from gptlab.corpus.find import find_texts
from gptlab.corpus.formats import TextErrors, has_json_lines
from gptlab.corpus.paths import Paths
from gptlab.corpus.patterns import EVERYTHING, Pattern, file_pattern, folder_and_pattern, is_pattern
from gptlab.errors import ConfigError, DataError


def open_corpus(
    path: str | Path | Sequence[str | Path],
    *,
    field: str = "text",
    errors: TextErrors = "strict",
    include: str | Sequence[str] = (),
    gitignore: bool = False,
    check: bool = True,
    conversations: bool = False,
) -> Corpus:
    """The corpus of a file, of a folder, searched recursively, or of several of them.

    A file's suffix says what it is: `.jsonl` or `.ndjson` has an object on each line, `.parquet`
    and `.arrow` have rows, and each of them is a document, unless its field is null; whatever else
    is plain UTF-8 text and one document. Each may be compressed, with `.gz` or `.zst` at the end.

    Of a folder, hidden files and folders are left out, what gptlab wrote too (runs, saved
    tokenizers, prepared datasets, unfinished preparations), and files that are empty, binary,
    damaged, or, if strict, not UTF-8. `skipped` counts all but the empty of these files, links that
    are broken or lead to a folder, pipes and devices, and folders that can't be read. A folder that
    `datasets.Dataset.save_to_disk` wrote stands for the files of that dataset.

    Args:
        path: What to read; the same file is read once, even if it is named twice. Where there is
            nothing at a path, `*`, `?`, `[...]` and `**` in it make it a pattern of files and
            folders, as in `src/**/*.py`.
        field: The key or the column that holds the text, where a file has rows.
        errors: About bytes that are not UTF-8, and NUL in a file that was named itself: "strict"
            refuses the file, "replace" reads each such sequence as U+FFFD and NUL as it is.
        include: Patterns. Of folders, only files of which one matches the name or, if it has a
            slash, the path within the folder, as in `*.py` or `docs/**`; without any, all.
        gitignore: Of folders, leave out what the .gitignore files in them name.
        check: Read the files of folders, and leave out those that are no text. Otherwise they are
            only listed, and `Corpus.read` tells which of them are no text.
        conversations: Read conversations, as `gptlab.corpus.conversations` describes them, from the
            files of JSON lines; others in folders are left out.

    Raises:
        ConfigError: `errors` is something else.
        DataError: There is nothing at a path, or no text in it; a folder is a dataset of several
            splits; or a package that reads one of a folder's files is missing.
    """
    if errors not in get_args(TextErrors):
        raise ConfigError(f"errors is '{errors}'; choose one of {', '.join(get_args(TextErrors))}")
    named = [path] if isinstance(path, str | Path) else path
    searches = dict.fromkeys(_root_and_pattern(Path(one)) for one in named)
    if not searches:
        raise DataError("the corpus has no path; give a text file or a folder of text files")
    patterns = [include] if isinstance(include, str) else include
    included = tuple(map(file_pattern, patterns)) or (EVERYTHING,)
    found = [
        find_texts(
            root, errors=errors, within=within, include=included, gitignore=gitignore, check=check
        )
        for root, within in searches
    ]
    roots = tuple(dict.fromkeys(root for root, _ in searches))
    files = Paths(chain.from_iterable(texts for texts, _ in found))
    skipped = sum(count for _, count in found)
    if conversations:
        found_files, files = files, _with_json_lines(files, roots)
        skipped += len(found_files) - len(files)
    return Corpus(roots, files, skipped, field=field, errors=errors, conversations=conversations)


def _with_json_lines(files: Paths, roots: Sequence[Path]) -> Paths:
    """Those of `files` that may hold conversations.

    Raises:
        DataError: A file that was named itself is not among them, or there are none.
    """
    kept = Paths(file for file in files if has_json_lines(file))
    other = next((root for root in roots if root.is_file() and not has_json_lines(root)), None)
    if other is not None or not kept:
        raise DataError(
            f"{other or roots[0]} holds no conversations, which are lines of JSON; give a .jsonl "
            "file, or leave --chat_template out"
        )
    return kept


def _root_and_pattern(path: Path) -> tuple[Path, Pattern]:
    """Where a search begins, and what it finds."""
    if is_pattern(f"{path}") and not os.path.lexists(path):
        return folder_and_pattern(path)
    return path, EVERYTHING
