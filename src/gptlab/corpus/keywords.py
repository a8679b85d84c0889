"""Which keywords a text uses: words that stand in it, or modules that it imports."""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import compress

from gptlab.corpus.python_source import imported_modules, is_or_is_below, parse
from gptlab.errors import ConfigError


class Keywords:
    """Looks for keywords in texts.

    A keyword counts where it stands as a whole word, in the same case: neither a letter nor a
    digit nor an underscore goes on at its ends, as far as it has such ends itself. By import it is
    the name of a module that the text imports, or that holds one, as in `imported_modules`:
    "matplotlib" and "matplotlib.pyplot" both stand for `from matplotlib import pyplot`. Strings
    and comments don't count then.

    Args:
        keywords: What to look for.
        by_import: Whether a keyword has to be imported.
        setting: Where they are from, for the message.

    Raises:
        ConfigError: A keyword has to be a module's name, and is none.
    """

    def __init__(
        self, keywords: Sequence[str], *, by_import: bool, setting: str = "keywords"
    ) -> None:
        self._keywords = tuple(keywords)
        self._by_import = by_import
        words = self._keywords
        if by_import:
            words = tuple(_package(keyword, setting) for keyword in keywords)
        self._words = tuple((word, _whole(word)) for word in words)

    def words_in(self, text: str) -> Iterator[bool]:
        """Whether each keyword stands in `text`; by import, each name without which none could."""
        # To look for the word alone first takes a fraction of the time.
        return (word in text and pattern.search(text) is not None for word, pattern in self._words)

    def imported_by(self, tree: ast.Module) -> Iterator[str]:
        """The keywords that stand for a module that `tree` imports, in their order."""
        modules = frozenset(imported_modules(tree))
        for keyword in self._keywords:
            if any(is_or_is_below(module, keyword) for module in modules):
                yield keyword

    def used_in(self, text: str) -> tuple[str, ...]:
        """The keywords that `text` uses, in their order; by import, none if it can't be parsed."""
        found = tuple(self.words_in(text))
        if not self._by_import:
            return tuple(compress(self._keywords, found))
        tree = parse(text) if any(found) else None
        return () if tree is None else tuple(self.imported_by(tree))


def _package(keyword: str, setting: str) -> str:
    """The first part of a module's name, without which no text imports it."""
    parts = keyword.split(".")
    if not all(map(str.isidentifier, parts)):
        raise ConfigError(
            f"{setting} has '{keyword}', which is no name of a module to import; write the name "
            f"that an import has, as in sklearn, or choose keyword_mode any"
        )
    return parts[0]


def _whole(word: str) -> re.Pattern[str]:
    """Finds a word that is no part of a longer one.

    What stands before it is looked at behind it, since `re` is many times as fast at a pattern
    that starts with plain characters.
    """
    plain = re.escape(word)
    before = rf"(?<!\w{plain})" if re.match(r"\w", word) else ""
    behind = r"(?!\w)" if re.search(r"\w\Z", word) else ""
    return re.compile(plain + before + behind)
