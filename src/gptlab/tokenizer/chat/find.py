"""Templates by name, from files, and beside a model."""

import json
from pathlib import Path

from gptlab.config import nearest
from gptlab.errors import ConfigError
from gptlab.tokenizer.chat.builtin import TEMPLATES
from gptlab.tokenizer.chat.template import TEMPLATE_FILE, ChatTemplate


def find_template(source: str) -> ChatTemplate:
    """The template that `source` means: a name, a JSON file, or a folder with one in it.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    if source in TEMPLATES:
        return TEMPLATES[source]
    path = Path(source)
    if path.is_dir():
        template = template_in(path)
        if template is None:
            raise ConfigError(
                f"{path} has no {TEMPLATE_FILE}; name a template, as in --chat_template chatml"
            )
        return template
    if path.is_file():
        return read_template(path)
    raise ConfigError(
        f"there is no chat template '{source}', nor a file of it; {nearest(source, TEMPLATES)}"
    )


def template_in(folder: Path) -> ChatTemplate | None:
    """The template that was saved into `folder`; None where none was.

    Raises:
        ConfigError: It is damaged.
    """
    path = folder / TEMPLATE_FILE
    return read_template(path) if path.is_file() else None


def read_template(path: Path) -> ChatTemplate:
    """The template in a JSON file.

    Raises:
        ConfigError: It can't be read, or is no template.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}; name a template") from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no JSON object, so it is no chat template; name one")
    try:
        return ChatTemplate(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
