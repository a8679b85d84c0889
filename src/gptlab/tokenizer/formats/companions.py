"""What the files beside a tokenizer say of it: its roles, and tokens that were added to it.

- `tokenizer_config.json`: names of the roles, added tokens with their ids
- `special_tokens_map.json`: names of the roles
- `added_tokens.json`: ids of added tokens
- `config.json`, `generation_config.json`: the ids that begin and end a text for the model
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlab.errors import TokenizerError
from gptlab.tokenizer.files import read_json
from gptlab.tokenizer.formats.definition import AddedToken
from gptlab.tokenizer.formats.roles import ROLES, Role

CONFIG_FILE = "tokenizer_config.json"

_FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")
_MAP_FILE, _ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
_MODEL_FILES = ("generation_config.json", "config.json")


def named_roles(folder: Path, names: Mapping[int, str]) -> dict[Role, str | None]:
    """The token of each role, or None on purpose; roles that nothing is said of are missing.

    Args:
        folder: Where the files are.
        names: The token of each id.

    Raises:
        TokenizerError: A file is garbled.
    """
    config, special = _content(folder, CONFIG_FILE), _content(folder, _MAP_FILE)
    named: dict[Role, str | None] = {}
    for role in ROLES:
        key = f"{role}_token"
        for content in (config, special):
            if key in content:
                named[role] = _name(content[key])
                break
        else:
            token = _model_id(folder, f"{key}_id") if role in ("bos", "eos") else None
            if token is not None and token in names:
                named[role] = names[token]
    return named


def listed_tokens(folder: Path) -> list[AddedToken]:
    """The tokens that were added, lowest id first.

    Raises:
        TokenizerError: A file is garbled.
    """
    config, special = _content(folder, CONFIG_FILE), _content(folder, _MAP_FILE)
    extra = [*_list(config, special, "additional_special_tokens")]
    roles = [config.get(f"{role}_token") or special.get(f"{role}_token") for role in ROLES]
    names = {_name(token) for token in (*extra, *roles) if token}
    try:
        if listed := config.get("added_tokens_decoder"):
            tokens = [_listed(token_id, token) for token_id, token in listed.items()]
        else:
            tokens = [
                AddedToken(content, token_id, special=content in names)
                for content, token_id in _content(folder, _ADDED_FILE).items()
            ]
        return sorted(tokens, key=lambda token: token.id)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(
            f"the tokens that {folder} adds to its tokenizer are garbled ({error}); save the "
            f"tokenizer again"
        ) from error


def _listed(token_id: str, token: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(token[name]) for name in _FLAGS if name in token}
    return AddedToken(token["content"], int(token_id), **flags)


def refuse_foreign_code(folder: Path) -> None:
    """See that the tokenizer in `folder` is no program of its own.

    Raises:
        TokenizerError: Its configuration names one; it is not run, nor is another way guessed.
    """
    named = _content(folder, CONFIG_FILE).get("auto_map")
    if named:
        raise TokenizerError(
            f"the tokenizer in {folder} is code of its own ({CONFIG_FILE} has an auto_map), which "
            f"gptlab never runs; get a version with a tokenizer.json"
        )


def _content(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return read_json(path) if path.is_file() else {}


def _name(token: Any) -> str | None:
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def _list(config: Mapping[str, Any], special: Mapping[str, Any], key: str) -> Any:
    return config.get(key) or special.get(key) or ()


def _model_id(folder: Path, key: str) -> int | None:
    """The first id that the model's own files name."""
    for name in _MODEL_FILES:
        value = _content(folder, name).get(key)
        value = next(iter(value), None) if isinstance(value, list) else value
        if isinstance(value, int):
            return value
    return None
