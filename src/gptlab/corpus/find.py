"""The texts at a path: of a file itself, of a folder the files in it that are texts."""

import stat
from pathlib import Path

from gptlab.corpus.compression import NotTextError, empty
from gptlab.corpus.formats import TextErrors, check_text
from gptlab.corpus.paths import Paths
from gptlab.corpus.patterns import EVERYTHING, Pattern
from gptlab.corpus.walk import Walk
from gptlab.errors import DataError


def find_texts(
    root: Path,
    *,
    errors: TextErrors,
    within: Pattern = EVERYTHING,
    include: tuple[Pattern, ...] = (EVERYTHING,),
    gitignore: bool = False,
    check: bool = True,
) -> tuple[Paths, int]:
    """The texts at `root`, a file or a folder, and how many files of a folder are none.

    Of a folder, hidden files and folders are left out, and runs, saved tokenizers, prepared
    datasets and unfinished preparations too.

    Args:
        root: The file or the folder.
        errors: About bytes that are not UTF-8, as for `open_corpus`.
        within: What a folder's files match.
        include: What a folder's files match one of.
        gitignore: Leave out what a folder's .gitignore files name.
        check: Read a folder's files, leave out those that are no text or empty, and count those
            that are no text, links to folders, and folders that can't be read. Otherwise nothing
            is read, and all of these stand among the files.

    Raises:
        DataError: There is nothing at `root`, a pipe or a device, or no text in it; a saved dataset
            in it is several, or broken; or a package is missing.
        OSError: The machine lacks space, memory or open files.
    """
    mode = _mode(root)
    if stat.S_ISREG(mode) and within == EVERYTHING:
        if check and root.stat().st_size == 0:
            raise DataError(f"{empty(root)}")
        return Paths([root]), 0
    if not stat.S_ISDIR(mode) and within == EVERYTHING:
        raise DataError(
            f"{root} is no regular file; write the text to a file first, as it is read repeatedly"
        )
    walk = Walk(root, ((within,), include), gitignore=gitignore)
    found = Paths(walk)
    texts, skipped = _texts_of(found, errors) if check else (found, 0)
    if texts and len(found) > len(walk.faults):
        return texts, skipped
    if walk.faults:
        fault = walk.faults[0]
        raise DataError(f"{fault.filename} can't be read: {fault.strerror}; give another folder")
    if (within, include) != (EVERYTHING, (EVERYTHING,)):
        shown = root.joinpath(*within[:-1])
        raise DataError(f"{shown} matches no text file; give other patterns, as in '*.txt'")
    raise DataError(f"{root} holds no text file; give a folder with UTF-8 text files in it")


def _mode(root: Path) -> int:
    try:
        return root.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise DataError(
            f"{root} does not exist; give a text file or a folder of text files"
        ) from None
    except OSError as error:
        raise DataError(f"{root} can't be read: {error.strerror}; give another path") from None


def _texts_of(files: Paths, errors: TextErrors) -> tuple[Paths, int]:
    """Those of the files that are texts, and how many are none though they are not empty."""
    texts, skipped = [], 0
    for file in files:
        try:
            check_text(file, errors=errors)
            texts.append(file)
        except NotTextError as error:
            skipped += error.reason != "empty"
    return Paths(texts), skipped
