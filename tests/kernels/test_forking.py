"""A forked child decodes: it does not wait for threads that only its parent has."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from outrider.kernels.forking import Exclusive

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ALONE = """
import os, signal, torch
from outrider.kernels.forking import Exclusive, use_torch_threads
use_torch_threads(2)
assert torch.get_num_threads() == 2
rows = torch.ones(1 << 20)
torch.cat([rows, rows])
child = os.fork()
if not child:
    signal.alarm(20)
    torch.cat([rows, rows])
    use_torch_threads(2)
    torch.cat([rows, rows])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 2
"""


def run(code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_torch_does_not_wait_for_threads_of_the_parent() -> None:
    done = run(ALONE)
    assert done.returncode == 0, done.stderr


def test_a_lock_is_open_after_renewal() -> None:
    lock = Exclusive()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.held:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    assert not lock.held.acquire(blocking=False)
    lock.renew()
    with lock.held:
        leave.set()
    thread.join()
    assert is_open(lock)


def is_open(lock: Exclusive) -> bool:
    """Whether another thread can enter."""
    found: list[bool] = []

    def enter() -> None:
        found.append(lock.held.acquire(timeout=5))
        if found[0]:
            lock.held.release()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


def test_an_interrupt_at_any_moment_leaves_a_lock_open() -> None:
    lock, moments = Exclusive(), random.Random(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(300):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 2e-4))
                while True:
                    with lock.held:
                        pass
            assert is_open(lock)
    finally:
        signal.signal(signal.SIGALRM, before)


GENERATE = """
import multiprocessing, os, signal, sys
import outrider
from tests.models.setups.make_checkpoints import make_checkpoint
make_checkpoint(sys.argv[1], vocab_size=50_000, tokenizer=True)

def texts(generator):
    plain = dict(max_new_tokens=40, seed=1, ignore_eos=True)
    found = []
    for options in ({}, {"temperature": 1.0, "top_p": 0.9}):
        found.append(generator.generate("once upon a time once upon", **plain, **options).token_ids)
    return found

def child(queue):
    signal.alarm(60)
    queue.put(texts(generator))
    queue.put(texts(outrider.load(sys.argv[1], threads=2, **options)))

options = eval(sys.argv[2])
generator = outrider.load(sys.argv[1], threads=2, **options)
expected = texts(generator)
if not (pid := os.fork()):
    signal.alarm(60)
    os._exit(texts(generator) != expected)
assert os.waitpid(pid, 0)[1] == 0, "fork"
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
process = context.Process(target=child, args=(queue,))
process.start()
process.join()
assert process.exitcode == 0, "multiprocessing"
assert queue.get() == expected and queue.get() == expected
assert texts(generator) == expected
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["{}", "{'drafter': 'lookahead'}", "{'drafter': 'stand'}", "{'dtype': 'float64'}"]
)
def test_a_child_writes_the_text_of_its_parent(options: str, tmp_path: Path) -> None:
    done = run(GENERATE, str(tmp_path / "model"), options)
    assert done.returncode == 0, done.stderr
