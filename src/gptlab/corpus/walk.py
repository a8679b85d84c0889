"""The files in a folder and in the folders within it, by name alone."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gptlab.corpus.compression import raise_if_of_machine
from gptlab.corpus.ignore import IGNORE_FILE, IgnoreRules
from gptlab.corpus.patterns import Pattern, leads_to, matches
from gptlab.corpus.saved_datasets import files_of, is_saved_dataset

# gptlab-tokenize saves beside a text, which may be within a folder of texts.
_TOKENIZER_SIGN, _TOKENIZERS = "tokenizer_config.json", {"tokenizer.json", "tokenizer.model"}
_TOKENIZER_FILES = {
    _TOKENIZER_SIGN,
    *_TOKENIZERS,
    *("tokenizer.tiktoken", "merges.txt", "vocab.json"),
}

# gptlab-train writes where it is called, which may be within a folder of texts as well.
_RUN_SIGNS = {"config.json", "metrics.jsonl"}

# So does gptlab-prepare, and under another name until it is done.
_DATASET_SIGNS = {"manifest.json", "documents.bin"}
_UNFINISHED = ".unfinished"
_UNFINISHED_PARTS = {"work", "dataset"}


class _Place(NamedTuple):
    path: Path
    parts: tuple[str, ...]
    """The path from where the walk began."""
    is_folder: bool
    rules: IgnoreRules


@dataclass
class Walk:
    """Files in the order of their paths' parts, and folders that can't be read.

    Hidden files and folders are left out, and what gptlab writes: runs, saved tokenizers, prepared
    datasets and unfinished preparations. A dataset saved by `datasets` stands for its own files.
    Links to folders are not followed but listed, as is what else is no file.
    """

    root: Path
    groups: tuple[tuple[Pattern, ...], ...] = ()
    """Of each of them a file matches a pattern."""
    gitignore: bool = False
    """Whether what .gitignore files name is left out."""
    faults: list[OSError] = field(default_factory=list)
    """Why folders could not be read, as far as the walk has come."""

    def __iter__(self) -> Iterator[Path]:
        """The paths.

        Raises:
            DataError: A saved dataset is several, or broken; or a package is missing.
        """
        waiting = [_Place(self.root, (), True, IgnoreRules())]
        while waiting:
            place = waiting.pop()
            if not place.is_folder:
                yield place.path
                continue
            try:
                with os.scandir(place.path) as entries:
                    names = {entry.name: entry for entry in entries}
            except OSError as error:
                raise_if_of_machine(error)
                self.faults.append(error)
                yield place.path
            else:
                waiting.extend(reversed(list(self._inside(place, names))))

    def _inside(self, folder: _Place, entries: dict[str, os.DirEntry[str]]) -> Iterator[_Place]:
        names = entries.keys()
        if _is_output(folder.path.name, names):
            return
        rules = folder.rules
        if self.gitignore and IGNORE_FILE in names:
            rules = rules.within(folder.path, depth=len(folder.parts))
        for name, is_folder in _listed(folder.path, entries):
            parts = (*folder.parts, name)
            test = leads_to if is_folder or _is_link_to_folder(entries.get(name)) else matches
            if all(any(test(parts, pattern) for pattern in group) for group in self.groups) and (
                not rules.leave_out(parts, is_folder=is_folder)
            ):
                yield _Place(folder.path / name, parts, is_folder, rules)


def _listed(folder: Path, entries: dict[str, os.DirEntry[str]]) -> Iterator[tuple[str, bool]]:
    """The names in a folder, in their order, and whether each is a folder."""
    names = entries.keys()
    if is_saved_dataset(names):
        yield from ((name, False) for name in files_of(folder))
        return
    has_tokenizer = _TOKENIZER_SIGN in names and not _TOKENIZERS.isdisjoint(names)
    passed_over = _TOKENIZER_FILES if has_tokenizer else set()
    for name in sorted(names - passed_over):
        if not name.startswith("."):
            yield name, entries[name].is_dir(follow_symlinks=False)


def _is_output(folder: str, names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a run, a dataset or an unfinished preparation."""
    if folder.endswith(_UNFINISHED) and "lock" in names:
        return not _UNFINISHED_PARTS.isdisjoint(names)
    return _RUN_SIGNS.issubset(names) or _DATASET_SIGNS.issubset(names)


def _is_link_to_folder(entry: os.DirEntry[str] | None) -> bool:
    try:
        return entry is not None and entry.is_symlink() and entry.is_dir()
    except OSError:
        return False
