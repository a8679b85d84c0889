"""Special tokens in front of a document, which say what it is, so that a model can be told.

They are what CTRL (Keskar et al. 2019, https://arxiv.org/abs/1909.05858) calls control codes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gptlab.config import PrepareConfig
from gptlab.config.preparation import LANGUAGE
from gptlab.corpus.keywords import Keywords
from gptlab.corpus.languages import language_of
from gptlab.errors import ConfigError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.base import TokenArray, token_dtype


class ControlTokens:
    """Says which control tokens a document has: its language, then the keywords it uses.

    Args:
        config: Which are asked for, and how a keyword is found.
        tokenizer: Has them as special tokens.
        files: The sources, of which the language of each has a token.

    Raises:
        ConfigError: The tokenizer lacks one of them, or a keyword has to be a module's name and
            is none.
    """

    def __init__(
        self, config: PrepareConfig, tokenizer: Tokenizer, *, files: Iterable[Path] = ()
    ) -> None:
        words = dict.fromkeys(config.control_tokens)
        self.by_language = LANGUAGE in words
        """Whether a document's language has a token."""
        words.pop(LANGUAGE, None)
        self.by_text = bool(words)
        """Whether a document must be whole for its tokens to be found."""
        self._keywords = Keywords(
            tuple(words), by_import=config.keyword_mode == "import", setting="control_tokens"
        )
        languages = {language_of(file) for file in files} if self.by_language else set()
        names = [*sorted(filter(None, languages)), *words]
        self._ids = _ids_of([_token(name) for name in names], config, tokenizer)
        self._dtype = token_dtype(tokenizer.vocab_size)

    def of(self, text: str, language: str | None) -> tuple[str, ...]:
        """The control tokens of a document that begins with `text`, in their order."""
        words = self._keywords.used_in(text) if self.by_text else ()
        names = words if language is None else (language, *words)
        return tuple(dict.fromkeys(map(_token, names)))

    def ids(self, names: Sequence[str]) -> TokenArray:
        """The id of each control token, (n,)."""
        return np.array([self._ids[name] for name in names], self._dtype)


def _token(name: str) -> str:
    return f"<{name}>"


def _ids_of(names: list[str], config: PrepareConfig, tokenizer: Tokenizer) -> dict[str, int]:
    known: dict[str, int] = {}
    # Not all kinds of tokenizer have them. Tokens that count in any text are not called special.
    for kind in ("added_tokens", "special_tokens"):
        known |= getattr(tokenizer, kind, {})
    if missing := [name for name in names if name not in known]:
        quoted = " ".join(f"'{name}'" for name in missing)
        raise ConfigError(
            f"control_tokens needs {', '.join(missing)}, but the tokenizer has no such special "
            f"token; make one with gptlab-tokenize --tokenizer {config.tokenizer or 'TOKENIZER'} "
            f"--special {quoted} --output NEW, and write --tokenizer NEW"
        )
    return {name: known[name] for name in names}
