"""Learn a SentencePiece model that gives every text back as it was."""

import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import sentencepiece

from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer.adapters.sentencepiece import SentencePieceTokenizer
from gptlab.tokenizer.adapters.shared import in_background, one_line
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.formats.sentencepiece_file import SPACE_MARK
from gptlab.tokenizer.ids import without_surrogates

_PAD, _UNK, _BOS, _EOS = SPECIAL_TOKENS
_LOSSLESS: dict[str, Any] = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    # Without a piece of its own, a space would be spelled in bytes, which is how the mark is.
    "required_chars": SPACE_MARK,
}
_SPECIAL_IDS: dict[str, Any] = {
    **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
    **{"pad_piece": _PAD, "unk_piece": _UNK, "bos_piece": _BOS, "eos_piece": _EOS},
}
# Sums are made per thread, so that the number of threads decides how they are rounded.
_THREADS = 16
# The library skips sentences of more than 4192 bytes, and such with U+2585, without an error. At
# most 4000 bytes are in 1000 characters. Whitespace goes to the front of the next stretch, where
# pieces have it.
_STRETCH = re.compile(r"[^\0\u2581\u2585]{1,1000}(?!\S)|[^\0\u2581\u2585]{1,1000}")
_TOO_LARGE = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_SMALL = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")


def train_sentencepiece(
    texts: Iterable[str],
    *,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    special_tokens: Sequence[str] = (),
    progress: bool = False,
) -> SentencePieceTokenizer:
    """Train a SentencePiece model (Kudo 2018, https://arxiv.org/abs/1804.10959) on texts.

    `decode(encode(text)) == text` for every text, except that a lone surrogate becomes U+FFFD:
    there is no normalisation, and bytes stand for the characters that have no piece. Ids begin
    with <PAD>, <UNK>, <BOS>, <EOS>, then `special_tokens`, then the 256 bytes. One version of the
    library gives the same model bytes for the same texts. It wants all of them in memory. Ctrl-C
    works, though the library goes on in the background until it is done or the process ends.

    Args:
        texts: Strings of any length, in which special tokens are no part of what is learned.
        vocab_size: Number of ids, exactly.
        model_type: "unigram", or "bpe" for byte-pair encoding over characters.
        special_tokens: More special tokens, printable; plain text unless `encode` is to allow them.
        progress: Let the library write what it does to standard error.

    Raises:
        TokenizerError: `vocab_size` is too small or too large for the texts, or a special token
            is not possible.
        DataError: There is no text.
    """
    special_tokens = _checked(special_tokens)
    stretches = deque(_stretches([texts] if isinstance(texts, str) else texts))
    if not stretches:
        raise DataError("the corpus is empty: give texts with at least one character")
    settings: dict[str, Any] = {
        **_LOSSLESS,
        **_SPECIAL_IDS,
        "model_type": model_type,
        "control_symbols": special_tokens,
        # With less, the library fails before it can say how much it needs.
        "vocab_size": max(vocab_size, len(SPECIAL_TOKENS)),
        "num_threads": _THREADS,
        "minloglevel": 0 if progress else 2,
    }
    model = io.BytesIO()

    def train() -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_emptied(stretches), model_writer=model, **settings
        )

    try:
        in_background(train)
    except (RuntimeError, ValueError, IndexError) as error:
        raise _failure(one_line(error), vocab_size, model_type) from error
    return SentencePieceTokenizer(model.getvalue())


def _checked(special_tokens: Sequence[str]) -> list[str]:
    taken = {*SPECIAL_TOKENS}
    for token in special_tokens:
        if not token or not token.isprintable() or token in taken:
            raise TokenizerError(
                f"{token!r} can't be a special token here: it has to be printable, not empty, "
                f"given once, and none of {', '.join(SPECIAL_TOKENS)}"
            )
        taken.add(token)
    return [*special_tokens]


def _stretches(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces short enough for the library, without what it can't learn from."""
    for text in texts:
        for match in _STRETCH.finditer(without_surrogates(text)):
            # The library strips line ends, and fails if nothing else is there.
            if match[0].strip("\r\n"):
                yield match[0]


def _emptied(stretches: deque[str]) -> Iterator[str]:
    """Each stretch, gone from memory once the library has it."""
    while stretches:
        yield stretches.popleft()


def _failure(cause: str, vocab_size: int, model_type: str) -> TokenizerError:
    if needed := _TOO_SMALL.search(cause):
        return TokenizerError(
            f"vocab_size={vocab_size} is too small: the special tokens, 256 bytes and the "
            f"characters of these texts already make {needed[1]}; ask for at least that many"
        )
    if possible := _TOO_LARGE.search(cause):
        return TokenizerError(
            f"vocab_size={vocab_size} is too large: {model_type} finds only {possible[1]} tokens "
            f"in these texts; ask for at most that many, or give more text"
        )
    return TokenizerError(
        f"SentencePiece can't train {model_type} with vocab_size={vocab_size} ({cause}): "
        f"change vocab_size, special_tokens or the texts"
    )
