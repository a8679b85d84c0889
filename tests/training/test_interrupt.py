import signal
import threading

import pytest

from gptlab.training.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number):
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(number)
        assert interrupt.requested


def test_the_second_one_acts():
    with Interrupt():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_of_many_none_acts_at_once_where_they_may_repeat():
    with Interrupt(may_repeat=True) as interrupt:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert interrupt.requested


@pytest.mark.parametrize("may_repeat", [False, True])
def test_the_first_signal_is_answered(capfd, may_repeat):
    with Interrupt(may_repeat=may_repeat, answers=True):
        assert capfd.readouterr().err == ""
        signal.raise_signal(signal.SIGINT)
        again = "" if may_repeat else "; once more stops at once"
        assert capfd.readouterr().err == f"\nstopping after this step{again}\n"


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before[0]
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_process_of_a_job_has_time_to_say_what_was_wrong():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(ZeroDivisionError), Interrupt(may_repeat=True):
            raise ZeroDivisionError
        signal.raise_signal(signal.SIGTERM)
        with Interrupt(may_repeat=True) as interrupt:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_in_another_thread_signals_keep_their_meaning():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def enter() -> None:
        with Interrupt() as interrupt:
            seen.append((interrupt.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
