"""Folders that `datasets.Dataset.save_to_disk` has written."""

import json
from collections.abc import Collection
from pathlib import Path

from gptlab.errors import DataError

_STATE = "state.json"
_SIGNS = {_STATE, "dataset_info.json"}
_SPLITS = "dataset_dict.json"


def is_saved_dataset(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a data set, or several."""
    return _SPLITS in names or _SIGNS.issubset(names)


def files_of(folder: Path) -> list[str]:
    """The names of the files that hold a data set's rows, in its order.

    Raises:
        DataError: The folder has several data sets, or does not say what is its own.
    """
    if (folder / _SPLITS).exists():
        splits = _names(folder / _SPLITS, "splits")
        raise DataError(
            f"{folder} is a dataset with the splits {', '.join(splits)}; name one of them, "
            f"as in {folder / splits[0]}"
        )
    return _names(folder / _STATE, "_data_files")


def _names(file: Path, key: str) -> list[str]:
    """The names of a list in a JSON file, where a name stands alone or as "filename"."""
    try:
        entries = json.loads(file.read_bytes())[key]
        names = [entry if isinstance(entry, str) else entry["filename"] for entry in entries]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        names = []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{file} does not list the '{key}' of a dataset; save the dataset again")
    return names
