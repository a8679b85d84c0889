"""Documents: the text of a file, or of every text file under a folder."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

from gptlab.errors import DataError

_PROBE_BYTES = 8192

# gptlab-tokenize saves beside a text, which may be within a folder of texts.
_TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json"}

# gptlab-train writes where it is called, which may be within a folder of texts as well.
_RUN_FILES = {"config.json", "metrics.jsonl"}


@dataclass(frozen=True)
class Corpus:
    """Text files in a fixed order, or a share of a single one."""

    root: Path
    """The file or the folder that the user named."""
    files: tuple[Path, ...]
    skipped: int = 0
    """Files of the folder that are not text."""
    start: float = 0.0
    """Where the part begins, as a share of a single file's text."""
    stop: float = 1.0

    @property
    def name(self) -> str:
        """Name of the file without its suffix, or of the folder."""
        path = self.root.resolve()
        return path.stem if path.is_file() else path.name

    def documents(self) -> Iterator[str]:
        """The text of each file, exactly as it stands there.

        Raises:
            DataError: A file is gone or is not UTF-8 text.
        """
        for file in self.files:
            text = read_text(file)
            yield text[_cut(text, self.start) : _cut(text, self.stop)]

    def fingerprint(self) -> str:
        """Digest of the content and the part, whatever the files are called."""
        digest = hashlib.sha256(f"{self.start} {self.stop}".encode())
        for file in self.files:
            with _opened(file) as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def split(self, dev_size: float) -> tuple["Corpus", "Corpus"]:
        """A training part and a held-out one of about `dev_size` of the text.

        The held-out part is the tail of a single file, from a line's start; of a folder it is
        whole files, each drawn by the digest of its path alone, so that a file stays in its part
        when others are added. Each part gets a file at least.
        """
        if len(self.files) == 1:
            border = 1.0 - dev_size
            return replace(self, stop=border), replace(self, start=border)
        drawn = sorted(self.files, key=self._draw)
        count = sum(self._draw(file) < dev_size for file in drawn)
        held_out = set(drawn[: min(max(count, 1), len(drawn) - 1)])
        train = tuple(file for file in self.files if file not in held_out)
        evaluation = tuple(file for file in self.files if file in held_out)
        return replace(self, files=train), replace(self, files=evaluation)

    def _draw(self, file: Path) -> float:
        """A number from 0 to 1 that depends on the file's place in the folder alone."""
        path = file.relative_to(self.root).as_posix()
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) / 2**64


def open_corpus(path: str | Path) -> Corpus:
    """The corpus at `path`: a text file, or a folder, searched recursively.

    Of a folder, hidden files and folders are left out, runs and saved tokenizers too, and files
    that are empty, binary, or not UTF-8; `skipped` counts the latter two.

    Raises:
        DataError: There is nothing at `path`, or no text in it.
    """
    root = Path(path)
    if root.is_file():
        if root.stat().st_size == 0:
            raise DataError(f"{root} is empty; give a file with text in it")
        return Corpus(root, (root,))
    if not root.is_dir():
        raise DataError(f"{root} does not exist; give a text file or a folder of text files")
    found = [file for file in _files_under(root) if file.stat().st_size > 0]
    texts = tuple(file for file in found if _is_text(file))
    if not texts:
        raise DataError(f"{root} holds no text file; give a folder with UTF-8 text files in it")
    return Corpus(root, texts, skipped=len(found) - len(texts))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends included.

    Raises:
        DataError: The file can't be read, is binary, or is not UTF-8.
    """
    with _opened(path) as stream:
        data = stream.read()
    if b"\0" in data[:_PROBE_BYTES]:
        raise DataError(f"{path} is a binary file; give a text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte 0x{data[error.start]:02x} at offset {error.start}); "
            f"convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None


def _files_under(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        if set(names) >= _RUN_FILES:
            folders.clear()
            continue
        if set(names) >= _TOKENIZER_FILES:
            names = [name for name in names if name not in _TOKENIZER_FILES]
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def _is_text(file: Path) -> bool:
    try:
        read_text(file)
    except DataError:
        return False
    return True


def _cut(text: str, share: float) -> int:
    """Where `share` of `text` ends, moved on to the next line that is not blank, if there is one.

    Both sides get a character at least, unless the share is 0 or 1.
    """
    if share <= 0.0 or share >= 1.0:
        return round(share) * len(text)
    border = min(max(round(share * len(text)), 1), len(text) - 1)
    line_end = re.compile(r"[\r\n]+").search(text, border)
    return border if line_end is None or line_end.end() == len(text) else line_end.end()
