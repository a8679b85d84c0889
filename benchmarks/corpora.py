"""Texts for the benchmarks, the same in every run on one machine, so that none has to be fetched.

Python source comes from the standard library and the installed packages, each different file once,
ordered by path. Where that is not enough it is repeated with changes: in each further copy, two
thirds of the names get letters appended. A copy then brings about as many new words as as much
further source would: 40 MB of real source hold 1.56 times the unique chunks of their first 20 MB,
and those 20 MB with one changed copy 1.53 times.
"""

import hashlib
import itertools
import random
import re
import sysconfig
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""What gptlab calls "gpt4", spelled out here so that a peer's process need not load gptlab."""

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_RENAMED_SHARE = 2 / 3
# First and last character of a range in each script; only what Unicode 3.2 knew is drawn, so that
# no library's tables are too old for it.
_SCRIPTS = {
    "Latin": "\u00c0\u024f",
    "Greek": "\u0391\u03c9",
    "Cyrillic": "\u0410\u044f",
    "Hebrew": "\u05d0\u05ea",
    "Arabic": "\u0621\u0652",
    "Devanagari": "\u0905\u094d",
    "Thai": "\u0e01\u0e4e",
    "Georgian": "\u10d0\u10f0",
    "kana": "\u3041\u30fe",
    "Han": "\u4e00\u9fa5",
    "Hangul": "\uac00\ud7a3",
    "emoji": "\u2600\u2671",
}

Document = tuple[int, bytes]


@dataclass(frozen=True)
class Corpus:
    """A text file or a folder of them: how much is original, and how much repeated with changes."""

    path: Path
    original_bytes: int
    repeated_bytes: int
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return self.original_bytes + self.repeated_bytes

    def description(self) -> dict[str, Any]:
        """What a result says of it: all but where it is."""
        return {
            "bytes": self.size,
            "original_bytes": self.original_bytes,
            "repeated_with_changes_bytes": self.repeated_bytes,
            "sha256": self.sha256,
        }


def byte_count(text: str) -> int:
    """Read "20M" as 20,000,000; K, M and G count in thousands."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not match:
        raise ValueError(f"{text!r} is no size: write it like 500K, 20M or 1G")
    return int(match[1]) * 1000 ** " KMG".index(match[2] or " ")


def write_corpus(path: Path, documents: Iterable[Document]) -> Corpus:
    """Write documents, each a copy's number (0 for originals) and UTF-8, end to end to one file."""
    with path.open("wb") as file:
        return _written(path, documents, file.write)


def write_tree(folder: Path, documents: Iterable[Document]) -> Corpus:
    """Write each document to a file of its own, by hundreds in folders within folders.

    Sorted by path, the files stand in the order of the documents.
    """
    places = (
        folder / f"{number // 10_000:03}" / f"{number // 100 % 100:02}" / f"{number % 100:02}.py"
        for number in itertools.count()
    )

    def write(data: bytes) -> None:
        place = next(places)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    return _written(folder, documents, write)


def _written(path: Path, documents: Iterable[Document], write: Callable[[bytes], Any]) -> Corpus:
    sizes = {"original_bytes": 0, "repeated_bytes": 0}
    digest = hashlib.sha256()
    for copy, data in documents:
        write(data)
        digest.update(data)
        sizes["repeated_bytes" if copy else "original_bytes"] += len(data)
    return Corpus(path, **sizes, sha256=digest.hexdigest())


def first_bytes(documents: Iterable[Document], size: int) -> Iterator[Document]:
    """Documents that together have `size` bytes; the last one is cut at the end of a line."""
    for copy, data in documents:
        if len(data) >= size:
            end = data.rfind(b"\n", 0, size) + 1
            if end:
                yield copy, data[:end]
            return
        yield copy, data
        size -= len(data)


def python_documents() -> Iterator[Document]:
    """The Python files of this installation, and then changed copies of them without end."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    originals = []
    seen = set()
    for path in sorted({path.resolve() for root in roots for path in root.rglob("*.py")}):
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if data and digest not in seen and _is_text(data):
            seen.add(digest)
            originals.append(path)
            yield 0, data
    if not originals:
        raise FileNotFoundError("no Python source is installed here: give a text by --corpus")
    for copy in itertools.count(1):
        for path in originals:
            yield copy, _renamed(path.read_bytes().decode(), copy).encode()


def _is_text(data: bytes) -> bool:
    """Whether these are characters that every library knows, and so cuts alike.

    Which of the newest characters are letters depends on how old a library's Unicode tables are;
    Python's own are older than those of all contenders.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data and all(unicodedata.category(c) != "Cn" for c in set(text))


def _renamed(text: str, copy: int) -> str:
    return _IDENTIFIER.sub(lambda match: _name_in_copy(match.group(), copy), text)


@lru_cache(1 << 16)
def _name_in_copy(name: str, copy: int) -> str:
    # Letters, since the split pattern would cut digits off and no new word would come of them.
    suffix = str(copy).translate(str.maketrans("0123456789", "abcdefghij"))
    return name + suffix * (zlib.crc32(f"{copy} {name}".encode()) < _RENAMED_SHARE * 2**32)


def file_documents(path: Path) -> Iterator[Document]:
    """A text file as documents of a few kilobytes."""
    return ((0, piece.encode()) for piece in pieces(path, characters=4096))


def pieces(path: Path, *, characters: int) -> Iterator[str]:
    """Cut a file into texts of about this length without cutting a chunk of `GPT4_PATTERN`.

    All are read one after another, so that the whole text never is in memory.
    """
    rest = ""
    with path.open(encoding="utf-8", newline="\n") as file:
        while block := file.read(characters):
            text = rest + block
            cut = _last_cut(text)
            if cut:
                yield text[:cut]
            rest = text[cut:]
    if rest:
        yield rest


def _last_cut(text: str) -> int:
    """Where the last line begins that begins with a letter or digit; a chunk ends before it."""
    newline = text.rfind("\n")
    while newline >= 0 and not text[newline + 1 : newline + 2].isalnum():
        newline = text.rfind("\n", 0, newline)
    return newline + 1


def multi_script_documents(*, seed: int) -> Iterator[Document]:
    """Made-up text without end: documents of one script each, whose words follow Zipf's law."""
    random_ = random.Random(seed)
    vocabularies = [_words(first, last, random_) for first, last in _SCRIPTS.values()]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(vocabularies[0]) + 1)))
    while True:
        for words in vocabularies:
            lines = []
            for _ in range(random_.randint(10, 40)):
                chosen = random_.choices(words, cum_weights=weights, k=random_.randint(3, 30))
                end = random_.choice([".", "!", "?", ", 12", " 2026:", "…", "。"])
                lines.append(random_.choice([" ", " ", ""]).join(chosen) + end + "\n")
            yield 0, "".join(lines).encode()


def _words(first: str, last: str, random_: random.Random, *, count: int = 3000) -> list[str]:
    characters = [
        chr(code)
        for code in range(ord(first), ord(last) + 1)
        if unicodedata.ucd_3_2_0.category(chr(code)) != "Cn"
    ]
    return ["".join(random_.choices(characters, k=random_.randint(1, 9))) for _ in range(count)]
