"""Where a preparation stands, so that it goes on there after a kill.

OUTPUT.unfinished/
dataset/         what becomes OUTPUT
work/            what is known of duplicates, and journal.json
standard input/  a copy of it, if it is a source
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gptlab.data.preparation.reading import Place
from gptlab.data.staging import lock_file, writing
from gptlab.errors import DataError

_JOURNAL = "journal.json"
_LOCK = "lock"
_SECONDS_BETWEEN = 5.0


def unfinished_folder(output: Path) -> Path:
    """Where the preparation of `output` is until it is done."""
    return output.with_name(f"{output.name}.unfinished")


class Journal:
    """The record of an unfinished preparation, from which it can go on.

    Args:
        folder: Of the unfinished preparation.
        job: All that decides the result, by name.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.dataset = folder / "dataset"
        self.work = folder / "work"
        self.folder = folder
        self._job = job
        self._written = time.monotonic()

    def begin(self, *, overwrite: bool) -> tuple[Place, dict[str, Any] | None]:
        """Where to read on, and the state there; no state at the beginning.

        Raises:
            DataError: What is there is of another job, and must not be overwritten.
        """
        record = self._read()
        if record is not None and record["job"] == self._job:
            return Place(*record["place"]), record["state"]
        if record is not None and not overwrite:
            former = record["job"]
            names = [name for name in self._job if self._job[name] != former.get(name)]
            raise DataError(
                f"{self.folder} is an unfinished preparation that differs in "
                f"{', '.join(names)}; finish it as it was begun, or write --overwrite to begin anew"
            )
        for made in (self.dataset, self.work):
            if made.exists():
                shutil.rmtree(made)
            made.mkdir()
        return Place(), None

    @property
    def is_due(self) -> bool:
        """Whether enough has happened since the last note for another one."""
        return time.monotonic() - self._written >= _SECONDS_BETWEEN

    def note(self, place: Place, state: dict[str, Any]) -> None:
        """Record that all before `place` is in `state`."""
        record = {"job": self._job, "place": place, "state": state}
        partial = self.work / f".{_JOURNAL}"
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(self.work / _JOURNAL)
        self._written = time.monotonic()

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.work / _JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_whole = isinstance(record, dict) and record.keys() == {"job", "place", "state"}
        # Without the dataset, it was published, and there was no time to remove the rest.
        return record if is_whole and self.dataset.is_dir() else None

    def end(self) -> None:
        """Forget everything: there is nothing to go on with."""
        (self.work / _JOURNAL).unlink(missing_ok=True)


@contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; it stays behind if there is a journal in it.

    Raises:
        DataError: Another process holds it, it is of something else, or it can't be written.
    """
    path = folder / _LOCK
    if folder.exists() and not path.exists() and not (folder.is_dir() and _is_empty(folder)):
        raise DataError(f"{folder} is in the way; move or remove it, or choose another --output")
    with ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.open("w"))
        if not lock_file(lock.fileno()):
            raise DataError(f"another process is writing to {folder}; wait until it is done")
        try:
            yield
        finally:
            if not (folder / "work" / _JOURNAL).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
