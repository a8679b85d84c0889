"""The tokens that a template needs of a tokenizer."""

from collections.abc import Sequence
from dataclasses import replace

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.chat.template import ChatTemplate


def id_of(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of the token `name`, special or always looked for; None where there is none."""
    try:
        ids = tokenizer.encode(name, allowed_special=(name,))
    except TokenizerError:
        ids = tokenizer.encode(name)
    return ids[0] if len(ids) == 1 else None


def without_names_in_text(tokenizer: Tokenizer, template: ChatTemplate) -> Tokenizer:
    """The tokenizer for contents: it finds no token of `template` in plain text, if it can be told.

    One may be looked for in normalised text, and then has more spellings than its name.
    """
    names = names_in_text(tokenizer, template)
    if not names or not isinstance(tokenizer, BPETokenizer):
        return tokenizer
    definition = tokenizer.definition
    added = [
        replace(token, special=token.special or token.content in names)
        for token in definition.added_tokens
    ]
    return tokenizer.from_definition(replace(definition, added_tokens=tuple(added)))


def names_in_text(tokenizer: Tokenizer, template: ChatTemplate) -> Sequence[str]:
    """Which of the tokens of `template` the tokenizer finds in plain text, though none allows it.

    The tokenizers of others do so with what they added without calling it special.
    """
    ends = [id_ for id_ in (tokenizer.bos_id, tokenizer.eos_id) if id_ is not None]
    names = [*template.special_tokens, *(tokenizer.decode([id_]) for id_ in ends)]
    return [name for name in names if name and len(tokenizer.encode(name)) == 1]


def missing_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> Sequence[str]:
    """Which of a template's special tokens the tokenizer has not got, in their order."""
    return [name for name in template.special_tokens if id_of(tokenizer, name) is None]


def with_template_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> Tokenizer:
    """The tokenizer itself, or one with the special tokens of `template` behind all other ids.

    Raises:
        TokenizerError: Some are missing, and the tokenizer can't be extended.
    """
    missing = missing_tokens(tokenizer, template)
    if not missing:
        return tokenizer
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"chat template {template.name} needs {', '.join(missing)}, and a "
            f"{type(tokenizer).__name__} can't be extended; use the template plain or zephyr"
        )
    return tokenizer.with_special_tokens(missing)
