"""A prompt: where its text comes from, and whether its model can hold it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.config import SamplingConfig
from gptlab.errors import DataError

if TYPE_CHECKING:
    from gptlab.generation import Generator

STANDARD_INPUT = "-"
_TO_WRITE = {
    "prompt": "the beginning of a text",
    "source": "a source on each line",
    "text": "some text",
}


def read_prompt(name: str, *, flag: str = "prompt") -> str:
    """The text of file `name`, or of standard input, as it is.

    Args:
        name: Which file; - is standard input.
        flag: What takes such a text itself.

    Raises:
        DataError: There is no such file, or it has no text.
    """
    is_file = name != STANDARD_INPUT
    shown = name if is_file else "standard input"
    try:
        content = Path(name).read_bytes() if is_file else sys.stdin.buffer.read()
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise DataError(
            f"there is no file {name}; name one, or give the text itself with --{flag}"
        ) from None
    except IsADirectoryError:
        raise DataError(
            f"{name} is a folder; name a file, or give the text itself with --{flag}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown} is no UTF-8 text, for byte {error.start} is {content[error.start]:#04x}; "
            "name a text file, or convert it"
        ) from None
    if "\0" in text:
        raise DataError(f"{shown} is no text, for it has NUL bytes; name a text file")
    if not text:
        raise DataError(f"{shown} is empty; write {_TO_WRITE[flag]}, or leave --{flag}_file out")
    return text


def note_of_overflow(generator: "Generator", prompt: str, config: SamplingConfig) -> str | None:
    """What becomes of a context that outgrows the model's; None where it does not."""
    tokens, seq_len = len(generator.encode_prompt(prompt)), generator.model.config.seq_len
    if config.overflow == "error" or tokens + config.max_new_tokens <= seq_len:
        return None
    what = {
        "slide": "goes on with the newer half of its context",
        "truncate": "forgets the older half of its context",
    }[config.overflow]
    return (
        f"note: {tokens} + {config.max_new_tokens} tokens exceed the model's seq_len of "
        f"{seq_len}: it {what}"
    )
