import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import ConfigError, WorkerError
from gptlab.parallel import batched, parallel_map


class Square:
    """Squares, and tells where."""

    def __init__(self):
        self.calls = 0

    def __call__(self, number):
        self.calls += 1
        return number * number, os.getpid(), self.calls


def slow_first(folder):
    def work(number):
        if number == 0:
            time.sleep(0.2)
        Path(folder, str(number)).touch()
        return number

    return work


def dies_at(last):
    def work(number):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def fails():
    def work(number):
        raise ValueError(f"no {number}")

    return work


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_are_in_order(processes):
    results = list(parallel_map(Square, range(100), processes=processes))
    assert [square for square, _, _ in results] == [n * n for n in range(100)]
    workers = {worker for _, worker, _ in results}
    assert len(workers) <= processes
    assert (os.getpid() in workers) == (processes == 1)
    assert sum(max(c for _, w, c in results if w == worker) for worker in workers) == 100


def test_a_slow_item_keeps_its_place(tmp_path):
    assert list(parallel_map(partial(slow_first, tmp_path), range(9), processes=2)) == [*range(9)]


def test_a_single_item_is_worth_no_process():
    assert list(parallel_map(Square, [3], processes=4)) == [(9, os.getpid(), 1)]
    assert list(parallel_map(Square, [], processes=4)) == []


def test_items_are_read_no_further_than_needed():
    read = 0

    def items():
        nonlocal read
        for number in range(1000):
            read = number
            yield number

    results = parallel_map(Square, items(), processes=2)
    next(results)
    assert read < 10
    results.close()


def test_errors_of_the_function_arrive():
    with pytest.raises(ValueError, match="no 0"):
        list(parallel_map(fails, range(5), processes=2))


def test_a_killed_worker_is_an_error_of_one_line():
    with pytest.raises(WorkerError, match="exit code -9") as caught:
        list(parallel_map(partial(dies_at, 3), range(100), processes=2))
    assert "\n" not in str(caught.value)


def large(folder):
    def work(number):
        Path(folder, str(os.getpid())).touch()
        return bytes(1 << 28)

    return work


def test_a_worker_killed_while_it_hands_over_is_an_error_too(tmp_path):
    results = parallel_map(partial(large, tmp_path), range(4), processes=2)
    killer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\nfolder = sys.argv[1]\n"
            "while not os.listdir(folder): time.sleep(0.001)\n"
            "time.sleep(0.05)\nfor pid in os.listdir(folder): os.kill(int(pid), 9)",
            str(tmp_path),
        ]
    )
    with pytest.raises(WorkerError, match="exit code -9"):
        list(results)
    killer.wait()


def raises(kind, number):
    raise kind("by the function")


@pytest.mark.parametrize("kind", [EOFError, ConnectionResetError, OSError])
def test_errors_that_a_broken_connection_has_too_arrive(kind):
    with pytest.raises(kind, match="by the function"):
        list(parallel_map(partial(partial, raises, kind), range(5), processes=2))


def refuses():
    raise ValueError("can't be made")


def test_errors_of_what_makes_the_function_arrive():
    with pytest.raises(ValueError, match="can't be made"):
        list(parallel_map(refuses, range(5), processes=2))


def test_errors_of_the_items_arrive():
    def items():
        yield from range(5)
        raise EOFError("no more")

    with pytest.raises(EOFError, match="no more"):
        list(parallel_map(Square, items(), processes=2))


def test_processes_may_be_spawned(monkeypatch):
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr("gptlab.parallel.get_context", lambda _: context)
    assert list(parallel_map(partial(partial, pow, 2), range(5), processes=2)) == [1, 2, 4, 8, 16]


def in_a_child(results):
    results.put(list(parallel_map(Square, range(3), processes=2)))


def test_a_process_that_may_not_have_children_works_alone():
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=in_a_child, args=(results,), daemon=True)
    child.start()
    assert results.get(timeout=20) == [(n * n, child.pid, n + 1) for n in range(3)]
    child.join()


def test_no_processes_at_all_are_refused():
    with pytest.raises(ConfigError, match="processes is 0; choose 1 or more"):
        list(parallel_map(Square, range(5), processes=0))


@given(st.lists(st.text()), st.integers(1, 10))
def test_batches(texts, size):
    batches = list(batched(texts, size, length=len))
    assert [text for batch in batches for text in batch] == texts
    assert all(sum(map(len, batch)) >= size for batch in batches[:-1])
    assert all(sum(map(len, batch[:-1])) < size for batch in batches)


SCRIPT = r"""
import os, signal, time
# A suite that is started in the background inherits an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from gptlab.parallel import parallel_map

def make():
    def work(number):
        os.write(1, b"%d\n" % os.getpid())
        time.sleep(0.05)
    return work

for _ in parallel_map(make, range(100000), processes=2):
    pass
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which processes live")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(by):
    # A session of its own, as a terminal has: Ctrl-C there reaches parent and workers alike.
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = {int(parent.stdout.readline()) for _ in range(8)}
    (os.killpg if by == signal.SIGINT else os.kill)(parent.pid, by)
    _, errors = parent.communicate(timeout=20)
    assert len(workers) == 2
    assert errors.count("Traceback") == (by == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


AT_WORK = r"""
import os, time
from gptlab.parallel import parallel_map

def make():
    def work(number):
        os.write(1, b"begun\n")
        time.sleep(0.3 * number)
        os.write(1, b"done\n")
    return work

for _ in parallel_map(make, range(1, 100), processes=3):
    pass
"""

HANDING_OVER = r"""
import os, signal
from gptlab import parallel

def begin(worker, item):
    os.write(1, b"begun\n")
    os.write(worker._connection.fileno(), b"\0\0\3\xe8less than 1000 bytes")
    os.kill(os.getpid(), signal.SIGKILL)

parallel._Worker.begin = begin
list(parallel.parallel_map(lambda: len, ["a", "b"], processes=3))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize(("script", "begun"), [(AT_WORK, 3), (HANDING_OVER, 1)])
def test_workers_whose_parent_was_killed_end_quietly_after_their_item(script, begun):
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(begun):
        assert parent.stdout.readline() == "begun\n"
    parent.kill()
    # Their output ends when the last of them does.
    output, errors = parent.communicate(timeout=20)
    assert output == ("done\n" * 3 if script == AT_WORK else "")
    assert errors == ""


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
