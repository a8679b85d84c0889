"""The processes of one training job, as torchrun starts them: who we are, and how to agree."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from gptlab.errors import BackendError, ConfigError, PeerError, TrainingError

Result = TypeVar("Result")
# The others wait while the first process makes a tokenizer, which torch's half an hour cuts off.
_PATIENCE = timedelta(days=7)
# As soon as one process has ended, torchrun ends the others, perhaps in the middle of their line.
_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Ranks:
    """This process among all of a job. Alone, nothing is sent and no process group needed.

    All processes must call the methods that talk to the others, in the same order.
    """

    rank: int = 0
    """Which of the processes this is."""
    size: int = 1
    """How many there are, on all machines."""
    local_rank: int = 0
    """Which of those on this machine this is."""
    local_size: int = 1
    """How many there are on this machine."""
    control: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)
    """The group for small messages, on the CPU."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process where the setting says `name`: a GPU for each of them.

        Raises:
            ConfigError: `name` is one GPU, which the processes can't share.
            BackendError: There are more processes on this machine than GPUs.
        """
        if self.size == 1 or not name.startswith(("auto", "cuda")):
            return name
        if ":" in name:
            raise ConfigError(
                f"device is '{name}', but each of the {self.size} processes takes a GPU of its "
                "own; write --device cuda"
            )
        count = torch.cuda.device_count()
        if name == "auto" and not count:
            return name
        if self.local_rank >= count:
            raise BackendError(
                f"process {self.local_rank} of this machine finds {count} GPU(s); start torchrun "
                f"with --nproc_per_node {max(count, 1)}, or write --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` added up over all processes, on its own device; in the same bits everywhere."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def min(self, number: int) -> int:
        """The smallest `number` of all processes."""
        if self.size == 1:
            return number
        least = torch.tensor(number)
        dist.all_reduce(least, op=dist.ReduceOp.MIN, group=self.control)
        return int(least)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in some process."""
        return self.min(0 if flag else 1) == 0

    def share(self, value: Any) -> Any:
        """What the first process gives as `value`, in all of them; something that JSON can hold."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor(len(content))
        dist.broadcast(length, src=0, group=self.control)
        encoded = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(encoded, src=0, group=self.control)
        return json.loads(bytes(encoded.tolist()))

    def together(self, work: Callable[[], Result]) -> Result:
        """`work` done in every process, or an error in every process.

        `work` must not talk to the other processes where it may fail in one of them alone.

        Raises:
            Exception: What `work` raises, in the first process in which it does.
            PeerError: In the others.
        """
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            if self.size == 1:
                raise
            failure = error
        loser = self.min(self.size if failure is None else self.rank)
        if failure is not None and loser == self.rank:
            raise failure
        if loser < self.size:
            raise PeerError(f"process {loser} of this job has failed") from failure
        return result

    def first(self, work: Callable[[], Result]) -> Result:
        """`work` done by the first process, then by one on each machine, then by all others.

        For what leaves a file behind that makes it quick for those who come later.

        Raises:
            Exception: What `work` raises, in the first process in which it does.
            PeerError: In the others.
        """
        mine = 0 if self.is_first else 1 if self.local_rank == 0 else 2
        results: list[Result] = []
        for turn in range(3):
            self.together(lambda: results.append(work()) if turn == mine else None)  # noqa: B023
        return results[0]


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the job that torchrun started this process for, or be alone where it did not.

    Whichever process fails first keeps its error; one that fails after it raises a `PeerError`, so
    that a job ends with one line. Where the error is that a process is gone, that line says so.

    Args:
        device: The setting, which decides whether NCCL serves GPUs beside gloo.

    Raises:
        ConfigError: The environment names a job that can't be joined.
        TrainingError: Another process was lost.
        PeerError: Another process has failed, and says why.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    on_gpu = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    try:
        store, rank, size = next(iter(rendezvous("env://")))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size
        )
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"this process can't join its job ({error}); start all of it with torchrun"
        ) from error
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if on_gpu and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    failed = False
    try:
        yield Ranks(rank, size, local_rank, local_size, control=control)
    except (Exception, KeyboardInterrupt) as error:
        failed = True
        shown = _shown(error, store)
        if shown is error:
            raise
        raise shown from error
    finally:
        # After a failure, NCCL may wait there for a process that is gone.
        if not (failed and on_gpu):
            dist.destroy_process_group()


def _shown(error: BaseException, store: Store) -> BaseException:
    """What this process raises for `error`, which the first one to fail says for all."""
    if not isinstance(error, PeerError):
        try:
            is_first = store.add("gptlab/failures", 1) == 1
        except RuntimeError:
            is_first = True
        if is_first:
            return _lost_peer() if _is_lost_peer(error) else error
        error = PeerError("another process of this job has failed")
    time.sleep(_GRACE_SECONDS)
    return error


def _is_lost_peer(error: BaseException) -> bool:
    # From gloo it is a plain RuntimeError, whose text alone tells it from any other.
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    )


def _lost_peer() -> TrainingError:
    """The error for a process that is gone without a word, killed or out of memory."""
    return TrainingError(
        "another process of this job was lost, killed or out of memory; go on with the same "
        "command and --resume"
    )
