"""What .gitignore files leave out: https://git-scm.com/docs/gitignore."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.corpus.compression import raise_if_of_machine
from gptlab.errors import DataError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".gitignore"


@dataclass(frozen=True)
class IgnoreRules:
    """The rules that hold within a folder: its own and those of the folders above it."""

    specs: "tuple[tuple[int, GitIgnoreSpec], ...]" = ()
    """The deepest last, each with the depth of its folder below where the search began."""

    def within(self, folder: Path, *, depth: int) -> "IgnoreRules":
        """The rules in `folder`, which lies in the folder of these ones.

        Raises:
            DataError: There is a .gitignore file, but the package that understands it is missing.
        """
        file = folder / IGNORE_FILE
        try:
            lines = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        except OSError as error:
            raise_if_of_machine(error)
            return self
        try:
            from pathspec import GitIgnoreSpec
        except ImportError:
            raise DataError(
                f"{file} needs the package pathspec; run pip install 'gptlab[gitignore]'"
            ) from None
        spec = GitIgnoreSpec.from_lines(line.removesuffix("\r") for line in lines)
        return IgnoreRules((*self.specs, (depth, spec)))

    def leave_out(self, parts: tuple[str, ...], *, is_folder: bool) -> bool:
        """Whether a file or a folder is left out that lies in a folder which is not.

        Args:
            parts: Its path from where the search began.
            is_folder: Whether it is a folder.
        """
        for depth, spec in reversed(self.specs):
            path = "/".join(parts[depth:])
            verdict = _last_match(spec, f"{path}/") if is_folder else spec.check_file(path).include
            if verdict is not None:
                return verdict
        return False


def _last_match(spec: "GitIgnoreSpec", folder: str) -> bool | None:
    """What the last rule that matches a folder says.

    The package itself weighs a rule of folders alone, as in `!*/`, less than others, which is right
    for the files in them.
    """
    for pattern in reversed(list(spec.patterns)):
        if pattern.include is not None and pattern.match_file(folder):
            return pattern.include
    return None
