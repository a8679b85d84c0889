"""Patterns of paths, as a shell has them: `*`, `?`, `[...]`, and `**` for folders at any depth."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

Pattern = tuple[str, ...]
"""The parts of a path, each with its wildcards; a part `**` stands for any number of them."""

EVERYTHING: Pattern = ("**",)

_WILDCARD = re.compile(r"[*?[]")
_ANY = "**"


def is_pattern(path: str) -> bool:
    """Whether a path has wildcards."""
    return _WILDCARD.search(path) is not None


def file_pattern(text: str) -> Pattern:
    """A pattern of files: by their name, in any folder, or, if it has a slash, by their path."""
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if text.endswith("/"):
        return (*parts, _ANY)
    return parts if "/" in text else (_ANY, *parts)


def folder_and_pattern(path: Path) -> tuple[Path, Pattern]:
    """The folder where the search for a path with wildcards begins, and the pattern within it.

    What is in a folder that matches does so too, as when a shell names the folder.
    """
    count = next(n for n, part in enumerate(path.parts) if is_pattern(part))
    return Path(*path.parts[:count]), (*path.parts[count:], _ANY)


def matches(parts: tuple[str, ...], pattern: Pattern) -> bool:
    """Whether a path, whole, matches."""
    if not pattern:
        return not parts
    if pattern[0] == _ANY:
        rest = pattern[1:]
        return not rest or any(matches(parts[n:], rest) for n in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def leads_to(folder: tuple[str, ...], pattern: Pattern) -> bool:
    """Whether something in a folder could match."""
    for part, expected in zip(folder, pattern, strict=False):
        if expected == _ANY:
            return True
        if not fnmatchcase(part, expected):
            return False
    return len(folder) < len(pattern)
