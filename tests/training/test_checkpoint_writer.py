"""A thread that does one job at a time, and a failure that is said once."""

import threading

import pytest

from gptlab.errors import CheckpointError
from gptlab.training.checkpoint_writer import CheckpointWriter


def fail() -> None:
    raise CheckpointError("no room")


def test_the_caller_goes_on_while_a_job_is_done():
    may_end, done = threading.Event(), []
    writer = CheckpointWriter()
    writer.write(lambda: (may_end.wait(30), done.append(1)))
    assert done == []
    may_end.set()
    writer.wait()
    assert done == [1]


def test_jobs_are_done_one_after_another_in_order():
    running, done = [], []

    def job(number: int) -> None:
        running.append(number)
        done.append((number, len(running)))
        running.remove(number)

    with CheckpointWriter() as writer:
        for number in range(20):
            writer.write(lambda number=number: job(number))
    assert done == [(number, 1) for number in range(20)]


def test_waiting_is_measured():
    may_end = threading.Event()
    writer = CheckpointWriter()
    writer.wait()
    assert writer.waited_seconds == 0
    writer.write(lambda: may_end.wait(30))
    threading.Timer(0.05, may_end.set).start()
    writer.wait()
    assert writer.waited_seconds > 0


def test_a_failure_is_raised_once_at_the_next_job_which_is_not_started():
    done = []
    writer = CheckpointWriter()
    writer.write(fail)
    with pytest.raises(CheckpointError, match="no room"):
        writer.write(lambda: done.append(1))
    writer.wait()
    assert done == []
    writer.write(lambda: done.append(2))
    writer.wait()
    assert done == [2]


def test_a_failure_of_the_last_job_is_raised_in_the_end():
    with pytest.raises(CheckpointError, match="no room"), CheckpointWriter() as writer:
        writer.write(fail)


def test_an_error_waits_for_the_job_and_is_not_hidden_by_its_failure():
    def broken_off(job, error):
        with CheckpointWriter() as writer:
            writer.write(job)
            raise error

    done = []
    with pytest.raises(KeyboardInterrupt):
        broken_off(lambda: done.append(1), KeyboardInterrupt)
    assert done == [1]
    with pytest.warns(UserWarning, match="no room"), pytest.raises(MemoryError):
        broken_off(fail, MemoryError)
