"""Work beside the verification: a thread that never outlives its block."""

import threading

import pytest

from outrider.decoding.beside import beside


def test_the_work_runs_while_the_block_does() -> None:
    """Each waits for the other: in one thread neither would end."""
    ours, theirs = threading.Event(), threading.Event()
    heard: list[bool] = []

    def work() -> None:
        theirs.set()
        heard.append(ours.wait(10))

    with beside([work, lambda: heard.append(True)]):
        heard.append(theirs.wait(10))
        ours.set()
    assert heard == [True] * 3
    assert no_worker()


def test_without_work_there_is_no_thread() -> None:
    with beside([]):
        assert no_worker()


def test_an_error_of_the_work_is_raised_after_the_block() -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError("broken")

    def later() -> None:
        done.append("later work")

    with pytest.raises(ValueError, match="broken"), beside([fail, later]):
        done.append("block")
    assert done == ["block"] and no_worker()


def test_an_error_of_the_block_comes_first_and_the_work_ends() -> None:
    begun, done = threading.Event(), threading.Event()

    def fail_late() -> None:
        begun.wait(10)
        done.set()
        raise ValueError("broken")

    with pytest.raises(KeyError, match="block"), beside([fail_late]):
        begun.set()
        raise KeyError("block")
    assert done.is_set() and no_worker()


def no_worker() -> bool:
    return all(thread.name != "outrider-beside" for thread in threading.enumerate())
