"""Packages that one format alone needs."""

from importlib import import_module
from types import ModuleType

from gptlab.errors import ExportError


def package(name: str, *, extra: str, use: str) -> ModuleType:
    """The module `name`, imported now.

    Args:
        name: As Python imports it.
        extra: What of gptlab installs it.
        use: What needs it.

    Raises:
        ExportError: It is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise ExportError(
            f'{use} needs the package {name}; run pip install "gptlab[{extra}]"'
        ) from None
