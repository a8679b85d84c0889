"""A folder of results that appears whole, and replaces nothing but itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.checkpoint.staging import publish, staged, writing
from gptlab.errors import ConfigError

_MANIFEST = "inspect.json"
_FORMAT = "gptlab-inspect"


def require_own(folder: Path) -> None:
    """Refuse a folder in which something would be lost.

    Raises:
        ConfigError: `folder` is a file, or holds one that `new_folder` did not write.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; write --output with the name of one")
    own = _own_files(folder)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in own:
            raise ConfigError(
                f"{folder} holds {name}, which {_FORMAT} did not write; choose another --output"
            )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` when the block has ended well.

    Raises:
        ConfigError: As of `require_own`.
        CheckpointError: The system refuses to write there: no room, no permission.
    """
    require_own(folder)
    target = folder.resolve()
    with writing(folder), staged(target) as partial:
        yield partial
        files = [path for path in partial.rglob("*") if path.is_file()]
        names = sorted(path.relative_to(partial).as_posix() for path in files)
        manifest = {"format": _FORMAT, "files": names}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        publish(partial, target)


def _own_files(folder: Path) -> set[str]:
    """What the folder's manifest says was written, and itself; nothing without one."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            return set()
        return {_MANIFEST, *map(str, manifest["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
