import pytest
import torch
from jobs import run_job

from gptlab.errors import BackendError, ConfigError
from gptlab.training.ranks import Ranks, joined

AGREE = """
import math, time
import torch
from gptlab.training.ranks import joined

with joined("cpu") as ranks:
    assert ranks.size == 3 and ranks.local_rank == ranks.rank
    assert ranks.is_first == (ranks.rank == 0)
    own = torch.tensor([1.0, ranks.rank], dtype=torch.float64)
    assert ranks.sum(own).tolist() == [3.0, 3.0] and own.tolist() == [1.0, ranks.rank]
    assert ranks.min(7 - ranks.rank) == 5
    assert ranks.any(ranks.rank == 2) and not ranks.any(False)
    told = {"é": [1, 2.5, None, math.inf], "of": ranks.rank}
    assert ranks.share(told) == {"é": [1, 2.5, None, math.inf], "of": 0}
    assert ranks.share("") == ""
    assert ranks.together(lambda: ranks.rank * 2) == ranks.rank * 2

    def work():
        time.sleep(0.3)
        return time.monotonic()

    done = ranks.first(work)
    first = ranks.share(done)
    assert ranks.is_first or done - 0.3 >= first
assert not torch.distributed.is_initialized()
"""

FAIL = """
import os, signal, sys, time
from gptlab.errors import ConfigError, PeerError, TrainingError
from gptlab.training.ranks import joined

case = {case!r}

def work(ranks):
    if case == "together":
        def fail_later():
            if ranks.rank > 0:
                raise ConfigError(f"a fault of {{ranks.rank}}")
        ranks.together(fail_later)
    if case == "first" and ranks.is_first:
        ranks.first(lambda: 1 / 0)
    if case == "first":
        ranks.first(lambda: sys.exit("the others must not begin"))
    if case == "alike":
        raise ConfigError(f"a fault of {{ranks.rank}}")
    if case == "alone" and ranks.rank == 1:
        raise ConfigError("a fault of 1")
    if case == "killed" and ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        ranks.min(0)

try:
    with joined("cpu") as ranks:
        work(ranks)
except PeerError:
    sys.exit(3)
except (ConfigError, TrainingError, ZeroDivisionError) as error:
    print(error)
"""


def said(ended):
    return [process.output.strip() for process in ended if process.output]


def test_agreeing(tmp_path):
    for process in run_job(tmp_path, size=3, script=AGREE):
        assert (process.code, process.errors) == (0, "")


@pytest.mark.parametrize(
    ("case", "codes", "words"),
    [
        ("together", [3, 0, 3], ["a fault of 1"]),
        ("first", [0, 3, 3], ["division by zero"]),
        ("alone", [3, 0, 3], ["a fault of 1"]),
    ],
)
def test_one_process_fails(tmp_path, case, codes, words):
    ended = run_job(tmp_path, size=3, script=FAIL.format(case=case))
    assert said(ended) == words
    assert [process.code for process in ended] == codes


def test_all_fail_and_one_says_so(tmp_path):
    ended = run_job(tmp_path, size=3, script=FAIL.format(case="alike"))
    assert len(said(ended)) == 1
    assert sorted(process.code for process in ended) == [0, 3, 3]


def test_a_killed_process_is_one_line(tmp_path):
    ended = run_job(tmp_path, size=3, script=FAIL.format(case="killed"))
    assert len(said(ended)) == 1
    assert said(ended)[0] == (
        "another process of this job was lost, killed or out of memory; go on with the same "
        "command and --resume"
    )
    assert ended[1].code == -9
    assert sorted((ended[0].code, ended[2].code)) == [0, 3]


def test_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as ranks:
        assert ranks == Ranks()
        assert not torch.distributed.is_initialized()
    tensor, value = torch.ones(2), object()
    assert ranks.is_first
    assert ranks.sum(tensor) is tensor
    assert ranks.share(value) is value
    assert ranks.min(3) == 3
    assert ranks.any(True)
    assert not ranks.any(False)
    assert ranks.first(lambda: 5) == ranks.together(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        ranks.together(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="gloo"), joined("cpu"):
        raise RuntimeError("gloo is not to blame, where there is none")


def test_a_job_of_one_needs_no_group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as ranks:
        assert ranks == Ranks()


def test_a_job_that_can_not_be_joined(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"can't join its job .*torchrun"), joined("cpu"):
        pass


@pytest.mark.parametrize("count", [0, 2])
def test_devices(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    second, third = Ranks(1, 3, 1), Ranks(2, 3, 2)
    assert Ranks().device("auto") == "auto"
    assert Ranks().device("cuda:1") == "cuda:1"
    assert second.device("cpu") == "cpu"
    with pytest.raises(
        ConfigError, match=r"'cuda:1', but each of the 3 processes .* --device cuda"
    ):
        second.device("cuda:1")
    if not count:
        assert second.device("auto") == "auto"
        with pytest.raises(BackendError, match=r"finds 0 GPU\(s\).*--device cpu"):
            second.device("cuda")
        return
    assert second.device("auto") == second.device("cuda") == "cuda:1"
    with pytest.raises(BackendError, match=r"process 2 .* finds 2 GPU\(s\).*--nproc_per_node 2"):
        third.device("auto")
