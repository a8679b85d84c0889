"""When a run saves, and under which names."""

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from gptlab.checkpoint import TRAINER, checkpoints_in
from gptlab.checkpoint.files import WEIGHTS, read_checksums
from gptlab.checkpoint.staging import hidden, publish, publish_copy, seal, writing
from gptlab.errors import CheckpointError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatTemplate
from gptlab.training import sharded
from gptlab.training.checkpoint_writer import CheckpointWriter
from gptlab.training.ending import is_over
from gptlab.training.run_checkpoints import BEST, LAST, remove_older
from gptlab.training.session import Session
from gptlab.training.snapshot import (
    SHARDS,
    Snapshot,
    sharded_tensors,
    take_snapshot,
    write_snapshot,
)


def is_checkpoint_due(session: Session) -> bool:
    """Whether the step just made calls for a checkpoint that is kept."""
    config, step = session.config, session.state.step
    if config.save_strategy == "no":
        return False
    if config.save_every is not None:
        return step % config.save_every == 0
    return session.crossed_epochs(config.save_every_epochs)


class Saver:
    """Saves a run while it goes on: a copy in memory is made at once, and a thread writes it.

    Of one step there are up to three checkpoints, which share their files by hard links:
    `last-STEP` always, `NAME_sSTEP` or `NAME_eEPOCH` to be kept, and `best-STEP`, a model alone,
    where its evaluation loss is the lowest. They appear in such an order that from whichever a
    kill leaves, the run goes on as if there had been none; older ones go when all are there.

    As a context it waits for what is being written in the end. All processes of a job must call
    its methods; the first one writes.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._writer = CheckpointWriter()
        self._tokenizer: Mapping[str, bytes] | None = None
        is_saved = (session.folder / f"{LAST}-{session.state.step}").is_dir()
        self._saved = session.state.as_json() if is_saved else None

    @property
    def waited_seconds(self) -> float:
        """Seconds that the run has waited for a former checkpoint to be written."""
        return self._writer.waited_seconds

    def save(self, *, numbered: bool = False, best: bool = False, final: bool = False) -> None:
        """Save the run as it is, unless it is saved already.

        Args:
            numbered: Whether to keep it under a name of its own.
            best: Whether the model is the best so far.
            final: Whether the run ends with this, be it by a signal or an error. Nothing else is
                saved where `save_strategy` is 'no'.

        Raises:
            CheckpointError: The checkpoint before this one could not be written.
            PeerError: Another process says so.
        """
        session, state = self._session, self._session.state.as_json()
        if state == self._saved and not (numbered or best):
            return
        if session.config.save_strategy == "no" and not (final or is_over(session)):
            return
        session.ranks.together(self._writer.wait)
        step = session.state.step
        target = session.folder / f"{LAST}-{step}"
        staging = Path(session.ranks.share(str(hidden(target))))
        self._write_shards(staging)
        snapshot = take_snapshot(session)
        if session.ranks.is_first:
            job = partial(
                write_checkpoints,
                staging,
                target,
                snapshot,
                tokenizer=self._tokenizer_files(),
                best=session.folder / f"{BEST}-{step}" if best else None,
                numbered=session.folder / numbered_name(session) if numbered else None,
                keep_last=session.config.keep_last,
            )
            self._writer.write(job)
        self._saved = state

    def close(self) -> None:
        """Return when all is written.

        Raises:
            CheckpointError: The last checkpoint could not be written.
            PeerError: Another process says so.
        """
        self._session.ranks.together(self._writer.wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._writer.__exit__(kind, error, trace)

    def _write_shards(self, staging: Path) -> None:
        shards = sharded_tensors(self._session)
        if not shards:
            return
        ranks, folder = self._session.ranks, staging / TRAINER / SHARDS
        ranks.together(partial(_make_folder, folder))
        try:
            sharded.save(folder, shards)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _tokenizer_files(self) -> Mapping[str, bytes]:
        if self._tokenizer is None:
            inputs = self._session.inputs
            self._tokenizer = _files_of(inputs.tokenizer, inputs.chat_template)
        return self._tokenizer


def numbered_name(session: Session) -> str:
    """`NAME_e5` after epoch 5, or `NAME_s500` where steps decide."""
    step, name = session.state.step, session.folder.name
    if session.config.save_every is not None:
        return f"{name}_s{step}"
    return f"{name}_e{int(session.sampler.epoch(step))}"


def write_checkpoints(
    staging: Path,
    target: Path,
    snapshot: Snapshot,
    *,
    tokenizer: Mapping[str, bytes],
    best: Path | None,
    numbered: Path | None,
    keep_last: int | None,
) -> None:
    """Write a step's checkpoints, then remove those that they replace.

    Args:
        staging: A hidden folder, in which shards may lie already; it is gone in the end.
        target: Where the run goes on from.
        snapshot: What to write.
        tokenizer: The tokenizer's files, by name.
        best: Where the model goes as the best one.
        numbered: Where all of it goes to stay.
        keep_last: How many of those that stay are kept; None for all.

    Raises:
        CheckpointError: They can't be written; those of former steps are whole.
    """
    try:
        with writing(target):
            write_snapshot(staging, snapshot, tokenizer=tokenizer)
            seal(staging, known=_known_checksums(snapshot))
            if best is not None:
                publish_copy(staging, best, trainer=False)
            if numbered is not None:
                publish_copy(staging, numbered, trainer=True)
            publish(staging, target)
            remove_older(target.parent, keep_last=keep_last)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, and {_way_on(target.parent)}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _known_checksums(snapshot: Snapshot) -> dict[str, str]:
    if snapshot.base is None:
        return {}
    return {WEIGHTS: read_checksums(snapshot.base.parent)[WEIGHTS]}


def _way_on(run: Path) -> str:
    if any((path / TRAINER).is_dir() for path in checkpoints_in(run)):
        return "go on with --resume; the checkpoint before it is whole"
    return "begin again with --resume; there is no checkpoint before it"


def _make_folder(folder: Path) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _files_of(tokenizer: Tokenizer, template: ChatTemplate | None) -> dict[str, bytes]:
    """The files that both of them save: made once, so that the writing thread need not."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        if template is not None:
            template.save(folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
