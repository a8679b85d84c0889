"""Which language a file is written in, by its suffix."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gptlab.corpus.compression import compression
from gptlab.corpus.formats import format_of

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        ".bash": "shell",
        ".c": "c",
        ".cc": "cpp",
        ".cpp": "cpp",
        ".cs": "csharp",
        ".css": "css",
        ".cu": "cuda",
        ".cxx": "cpp",
        ".go": "go",
        ".h": "c",
        ".hpp": "cpp",
        ".htm": "html",
        ".html": "html",
        ".java": "java",
        ".jl": "julia",
        ".js": "javascript",
        ".json": "json",
        ".jsx": "javascript",
        ".kt": "kotlin",
        ".lua": "lua",
        ".markdown": "markdown",
        ".md": "markdown",
        ".mjs": "javascript",
        ".php": "php",
        ".pl": "perl",
        ".py": "python",
        ".pyi": "python",
        ".pyx": "cython",
        ".r": "r",
        ".rb": "ruby",
        ".rs": "rust",
        ".rst": "rst",
        ".scala": "scala",
        ".sh": "shell",
        ".sql": "sql",
        ".swift": "swift",
        ".tex": "tex",
        ".toml": "toml",
        ".ts": "typescript",
        ".tsx": "typescript",
        ".txt": "text",
        ".xml": "xml",
        ".yaml": "yaml",
        ".yml": "yaml",
    }
)
"""The language of each suffix, in small letters."""


def language_of(file: Path) -> str | None:
    """The language of a file, or of the texts in its rows; None if its suffix tells none.

    The suffixes of a compression and of a format with rows are passed over: what is in
    `dump.py.jsonl.gz` is Python.
    """
    for suffix in (compression(file), format_of(file)):
        file = file.with_suffix("") if suffix else file
    return LANGUAGES.get(file.suffix.lower())
