"""The normalizer and the pre_tokenizer of a `tokenizer.json` as steps of our own.

Whatever is not supported raises a ValueError that names the part and its value.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import regex

from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.chunks.steps import (
    BEHAVIORS,
    NORMALIZERS,
    Behavior,
    NamedSplit,
    Normalizer,
    PrefixSpace,
    Split,
    Step,
    compiled_expression,
)

_KNOWN_EXPRESSIONS = {expression: name for name, expression in SPLIT_PATTERNS.items()} | {
    # As GPT-2 was published, and as tiktoken has it.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    # Llama 3's, and that of GPT-4 in most tokenizer.json files.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "gpt4",
}

# What Oniguruma, by which Hugging Face splits, and the `regex` module don't read alike.
_AMBIGUOUS = regex.compile(
    r"""(?<!\\)(?:\\\\)*+ (?P<part>
        \\(?![dDsSpPnrtfvau])[a-zA-Z]   # \w has other members, \h another meaning, ...
      | \\[pP](?!\{).?                  # \pL is no property there
      | \{\d*,?\d*\}\+                # a{1,3}+ repeats there, and is possessive here
        # Letters of which one stands for several (\ufb01, \xdf), or only in one case (\u0130), are
        # matched differently regardless of case; contractions have none of them.
      | (?!\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)(?![*+{]))
        (?!(?<=')\(\?i:\[sdmt\]\|ll\|ve\|re\)(?![*+{]))
        \(\?[a-zA-Z-]+[:)]
      | \[:\^?(?:digit|alnum|punct|word|graph|print|cntrl):\]
      | \|\| | ~~ | --
    )""",
    regex.VERBOSE,
)
# `regex` begins a line behind a newline that ends the text, Oniguruma doesn't. At the start of an
# expression no chunk depends on it. Escapes and classes, where ^ means other things, are skipped.
_LATER_ANCHOR = regex.compile(
    r"""(?: \\. | (?P<class> \[\^?+\]?+ (?: \\. | [^\[\]\\] | (?&class) )*+ \] ) )(*SKIP)(*FAIL)
      | (?<!^)(?P<part>\^)""",
    regex.VERBOSE | regex.DOTALL,
)
_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def mentions_bytes(content: bytes) -> bool:
    """Whether a `tokenizer.json` has a step ByteLevel, without reading all of it."""
    # Inside of a token, quotes are escaped.
    return re.search(rb'"type"\s*:\s*"ByteLevel"', content) is not None


def read_normalizers(part: Mapping[str, Any] | None) -> tuple[Normalizer, ...]:
    """The normalisers that the part "normalizer" asks for."""
    names: list[Normalizer] = []
    for item in _flat(part, "normalizers"):
        if item["type"] not in NORMALIZERS:
            raise ValueError(f"its normalizer {shown(item)} is not among {', '.join(NORMALIZERS)}")
        names.append(item["type"])
    return tuple(names)


def read_steps(part: Mapping[str, Any] | None) -> tuple[Step, ...]:
    """The steps that the part "pre_tokenizer" asks for, up to its ByteLevel."""
    items = list(_flat(part, "pretokenizers"))
    if not items or items[-1]["type"] != "ByteLevel":
        raise ValueError(f"its pre_tokenizer {shown(part)} does not end in ByteLevel")
    steps: list[Step] = [_read_step(item) for item in items[:-1]]
    if items[-1].get("add_prefix_space", True):
        steps.append(PrefixSpace())
    if items[-1].get("use_regex", True):
        steps.append(NamedSplit("gpt2"))
    return tuple(steps)


def _flat(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for item in part[key]:
        yield from _flat(item, key)


def _read_step(item: Mapping[str, Any]) -> Step:
    if item["type"] == "Digits":
        return Split(r"\p{N}" if item.get("individual_digits") else r"\p{N}+")
    if item["type"] != "Split":
        raise ValueError(f"its pre_tokenizer step {shown(item)} is not Split or Digits")
    if item["behavior"] not in BEHAVIORS:
        raise ValueError(f"its Split has the behavior {item['behavior']!r}")
    ((kind, text),) = item["pattern"].items()
    if kind not in ("Regex", "String") or not text:
        raise ValueError(f"its Split has the pattern {shown(item['pattern'])}")
    return split_step(
        regex.escape(text) if kind == "String" else text,
        behavior=item["behavior"],
        invert=item.get("invert", False),
    )


def split_step(
    expression: str, *, behavior: Behavior = "Isolated", invert: bool = False
) -> NamedSplit | Split:
    """The step that cuts by a regular expression; by a pattern of our own if it is one.

    Raises:
        ValueError: The expression can't be read, or not for sure as Hugging Face reads it.
    """
    # Our own patterns cover every text, so that a match is kept and nothing else is there.
    if (behavior, invert) in (("Isolated", False), ("Removed", True)):
        name = _KNOWN_EXPRESSIONS.get(expression)
        if name is not None:
            return NamedSplit(name)
    if found := _AMBIGUOUS.search(expression) or _LATER_ANCHOR.search(expression):
        raise ValueError(
            f"its split pattern {shown(expression)} has {found['part']!r}, which engines read "
            f"differently"
        )
    try:
        compiled_expression(expression)
    except regex.error as error:
        raise ValueError(f"its split pattern {shown(expression)} can't be read: {error}") from error
    return Split(expression, behavior, invert)
