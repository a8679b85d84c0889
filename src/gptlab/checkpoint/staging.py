"""A checkpoint's folder appears whole or not at all, and goes the same way.

It is written under a hidden name beside its own, `.NAME.PID`, sealed with its checksums, flushed,
and renamed. Where it takes the place of another one, that is first set aside as `.NAME.PID.former`:
two renames, as no one call of all systems swaps folders. A kill between them leaves the former one
under that hidden name, where a reader finds it.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gptlab.checkpoint.files import CHECKSUMS, TRAINER, digest, read_checksums
from gptlab.data.staging import flush
from gptlab.errors import CheckpointError, TokenizerError

_SET_ASIDE = re.compile(r"\.(?P<name>.+)\.\d+\.former")
_UNFINISHED = re.compile(r"\.(?P<name>.+?)\.\d+(\.former)?")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Explain what the system refuses while `path` is written.

    Raises:
        CheckpointError: Writing failed: no room, no permission.
    """
    try:
        yield
    except (OSError, TokenizerError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room on its disk" if full else "choose another folder"
        raise CheckpointError(f"{path} can't be written: {cause.strerror}; {remedy}") from None


def hidden(folder: Path) -> Path:
    """The name under which `folder` is written."""
    return folder.with_name(f".{folder.name}.{os.getpid()}")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new, empty folder under the hidden name of `folder`, gone in the end unless published."""
    partial = hidden(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def seal(folder: Path, *, known: Mapping[str, str] | None = None) -> None:
    """Write the checksum of every file, and flush everything to the disk.

    Args:
        folder: What to seal.
        known: Checksums of files in it that need not be read for that, by name.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file.relative_to(folder).as_posix(): file for file in files}
    known = known or {}
    _write_checksums(folder, {n: known.get(n) or digest(file) for n, file in names.items()})
    for path in [*files, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        flush(path)


def publish(partial: Path, folder: Path) -> None:
    """Give `partial` its final name, in place of the checkpoint that has it."""
    former = partial.with_name(f"{partial.name}.former")
    if folder.exists():
        folder.rename(former)
    try:
        partial.rename(folder)
    except OSError:
        if former.exists():
            former.rename(folder)
        raise
    flush(folder.parent)
    for leftover in [former, *_set_aside(folder)]:
        shutil.rmtree(leftover, ignore_errors=True)


def publish_copy(checkpoint: Path, folder: Path, *, trainer: bool) -> None:
    """Make `folder` of a sealed checkpoint by hard links, which take no room; or by copies.

    Args:
        checkpoint: What to copy, published or not.
        folder: The new checkpoint.
        trainer: Whether the state of training comes along.
    """
    checksums = read_checksums(checkpoint)
    if not trainer:
        checksums = {
            name: value for name, value in checksums.items() if not name.startswith(f"{TRAINER}/")
        }
    with staged(folder) as partial:
        for name in checksums:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            link(checkpoint / name, partial / name)
        _write_checksums(partial, checksums)
        for path in [*(path for path in partial.rglob("*") if path.is_dir()), partial]:
            flush(path)
        publish(partial, folder)


def remove(folder: Path) -> None:
    """Delete `folder` so that a kill leaves no half of it under its name."""
    partial = hidden(folder)
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def clear_unfinished(folder: Path, *, of: str | None = None) -> None:
    """Delete what killed writers left in `folder`, and put back what they had set aside.

    Args:
        folder: Where to look.
        of: The only name whose leftovers are looked at; None for all.
    """
    for path in list(folder.iterdir()):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or of not in (None, match["name"]):
            continue
        if is_set_aside(path):
            path.rename(path.with_name(public_name(path)))
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_set_aside(path: Path) -> bool:
    """Whether `path` was to be replaced, and its writer was killed before it was."""
    return public_name(path) != path.name and not path.with_name(public_name(path)).exists()


def public_name(path: Path) -> str:
    """The name that a checkpoint has, or had before it was set aside."""
    match = _SET_ASIDE.fullmatch(path.name)
    return match["name"] if match else path.name


def set_aside(folder: Path) -> Path | None:
    """Where the checkpoint lies whose name is `folder`, if a kill left it set aside."""
    if folder.exists() or not folder.parent.is_dir():
        return None
    return next(iter(_set_aside(folder)), None)


def _set_aside(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.parent.iterdir()
        if path.name != folder.name and public_name(path) == folder.name
    ]


def link(source: Path, target: Path) -> None:
    """Make `target` the file that `source` is, by a hard link where that is possible."""
    try:
        os.link(source, target)
    except OSError:
        # The file system knows no links, or allows no further one.
        shutil.copyfile(source, target)
        flush(target)


def _write_checksums(folder: Path, checksums: dict[str, str]) -> None:
    path = folder / CHECKSUMS
    path.write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    flush(path)
