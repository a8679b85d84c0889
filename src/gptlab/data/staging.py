"""A folder that appears whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.data.shards import is_dataset
from gptlab.errors import DataError


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Find out whether a dataset may be published as `folder`.

    Raises:
        DataError: Something else is there, or a dataset that must not be replaced.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_dataset(folder):
        raise DataError(f"{folder} is no dataset, so it is not replaced; choose another --output")
    if not overwrite:
        raise DataError(f"{folder} exists already; write --overwrite to replace it, or --output")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, gone in the end unless it was renamed."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, folder: Path) -> None:
    """Give `partial` its final name, in place of the folder that has it."""
    former = partial.with_name(f"{partial.name}.former")
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def lock_file(descriptor: int) -> bool:
    """Lock an open file for this process, until it is closed; whether no other one has done so."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; there it is up to the user.
        return True
    try:
        # Unlike flock's, it does not live on in workers that outlive a kill.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def flush(path: Path) -> None:
    """Have a file or a folder on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Explain what the system refuses.

    Raises:
        DataError: Writing failed; it is called by the name that the user knows, `folder`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room on its disk, and begin again" if full else "choose another folder"
        raise DataError(f"{folder} can't be written: {error.strerror}; {remedy}") from None
