"""Programs of a model: the sandbox that runs them, and the share of tests that they pass."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from outrider.core.errors import OptionError
from outrider.search.scorers import sandbox
from outrider.search.scorers.programs import ProgramScorer, halves, program_in
from outrider.search.scorers.sandbox import ProgramLimits, run_tests, trouble

QUICK = ProgramLimits(seconds=1.0)
"""For programs that do not end."""
CALM = ProgramLimits(seconds=20.0)
"""For programs that do, on a machine under load."""
needs_sandbox = pytest.mark.skipif(bool(trouble()), reason=trouble())

pytestmark = pytest.mark.method("pg-td")


def passes(program: str, test: str = "pass", limits: ProgramLimits = CALM) -> bool:
    return run_tests(program, [test], limits) == [True]


def running() -> set[str]:
    """Processes of users that only the sandbox uses, without those that have ended."""
    found: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
        except OSError:
            continue
        user = int(status.partition("Uid:")[2].split()[0])
        if user in sandbox._USERS and "State:\tZ" not in status:
            found.add(folder.name)
    return found


def left() -> set[str]:
    """Processes that do not end. Those of tests that run beside this one end by themselves."""
    found, until = running(), time.monotonic() + 30.0
    while found and time.monotonic() < until:
        time.sleep(0.1)
        found &= running()
    return found


@needs_sandbox
def test_each_test_is_judged_alone() -> None:
    program = "def add(a, b):\n    return a + b\n"
    tests = ["assert add(1, 2) == 3", "assert add(1, 2) == 4", "add.n = 1", "assert add.n == 1"]
    assert run_tests(program, tests, CALM) == [True, False, True, False]


@needs_sandbox
def test_the_standard_library_is_there() -> None:
    assert passes("import collections, heapq, itertools, json, math, random, re", "math.sqrt(4)")


@needs_sandbox
@pytest.mark.parametrize(
    "program",
    ["def broken(", "raise ValueError", "import sys; sys.exit(0)", "import os; os._exit(0)"],
)
def test_a_program_that_does_not_reach_the_end_of_its_test_fails(program: str) -> None:
    assert not passes(program)


@needs_sandbox
def test_an_endless_loop_ends() -> None:
    begun = time.perf_counter()
    assert not passes("while True: pass", limits=QUICK)
    assert time.perf_counter() - begun < 20


@needs_sandbox
def test_a_program_that_ignores_signals_ends() -> None:
    program = "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile 1: 0"
    assert not passes(program, limits=QUICK)


@needs_sandbox
def test_a_fork_bomb_ends() -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert not passes(bomb, limits=QUICK)
    assert not left()


@needs_sandbox
def test_the_number_of_processes_is_limited() -> None:
    program = (
        "import os, time\nn = 0\n"
        "try:\n    while n < 40:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
        "except BlockingIOError: pass\n"
    )
    limits = ProgramLimits(seconds=20, processes=4)
    assert passes(program, f"assert 0 < n <= 4 + {sandbox_spare()}, n", limits)
    assert not left()


def sandbox_spare() -> int:
    from outrider.search.scorers.sandbox_child import _OWN

    return _OWN


@needs_sandbox
def test_a_process_that_leaves_its_session_ends_with_its_test() -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"
    assert passes(program)
    assert not left()


@needs_sandbox
def test_a_test_leaves_no_process_to_the_next_one() -> None:
    leave = "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)"
    alone = "while sum(n.isdigit() for n in os.listdir('/proc')) > 3: time.sleep(0.01)"
    limits = ProgramLimits(seconds=8)
    assert run_tests("import os, time", [leave, alone], limits) == [True, True]


@needs_sandbox
def test_memory_is_limited() -> None:
    limits = ProgramLimits(seconds=20, memory_bytes=128 << 20)
    assert passes("x = bytearray(30 << 20)", limits=limits)
    assert not passes("x = bytearray(200 << 20)", limits=limits)
    assert not passes("x = []\nwhile True: x.append(bytearray(1 << 20))", limits=limits)


@needs_sandbox
def test_files_of_the_user_cannot_be_read(tmp_path, monkeypatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    monkeypatch.setenv("OUTRIDER_SECRET", "private")
    program = "import os\n"
    for path in (secret, Path(__file__), Path.home() / ".bashrc", Path("/etc/passwd")):
        program += f"assert not os.path.exists({str(path)!r})\n"
    program += "assert 'OUTRIDER_SECRET' not in os.environ\n"
    program += "assert os.getuid() != 0 and os.geteuid() != 0\n"
    assert passes(program)


@needs_sandbox
def test_other_processes_cannot_be_seen() -> None:
    own = os.getpid()
    program = "import os\nnumbers = [int(n) for n in os.listdir('/proc') if n.isdigit()]\n"
    program += f"assert len(numbers) < 10 and not os.path.exists('/proc/{max(own, 1000)}')\n"
    assert passes(program)


@needs_sandbox
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert not passes(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
        with pytest.raises(TimeoutError):
            server.accept()
    assert passes("import socket", "assert [n for _, n in socket.if_nameindex()] == ['lo']")


@needs_sandbox
def test_huge_output_is_dropped() -> None:
    assert passes("import sys\nfor _ in range(200):\n    print('x' * 100_000)\n")
    assert not passes("while True: print('x' * 100_000)", limits=QUICK)


@needs_sandbox
def test_files_are_small_and_vanish() -> None:
    assert passes("open('/tmp/a', 'w').write('x' * 1000)")
    assert passes("import os", "assert os.listdir('/tmp') == []")
    assert not passes(
        "f = open('/tmp/a', 'w')\nfor _ in range(20): f.write('x' * 100_000)\nf.close()"
    )
    assert not passes("open('/tmp/a', 'wb').truncate(1 << 30)")
    many = "for i in range(20):\n    with open(f'/tmp/{i}', 'w') as f: f.write('x' * 100_000)\n"
    assert not passes(many)
    for path in ("/usr/a", "/a", os.path.realpath(sys.base_prefix) + "/a"):
        assert not passes(f"open({path!r}, 'w')")


@needs_sandbox
def test_a_program_cannot_write_results_or_end_the_judge_to_pass() -> None:
    forged = "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'[true]' * 3)\n"
    forged += "    except OSError: pass\n"
    assert not passes(forged, "assert False")
    assert not passes("import os\nopen(f'/proc/{os.getppid()}/fd/1', 'w')")
    assert not passes("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')")
    killed = ["import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "pass"]
    assert run_tests("", killed, CALM) == [False, False]


@needs_sandbox
def test_a_program_that_halts_the_judge_ends(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_START", 1.0)
    halt = "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)"
    assert run_tests("", [halt, "pass"], QUICK) == [False, False]
    assert not left()


@needs_sandbox
def test_users_without_rights_have_a_namespace_of_their_own(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if sandbox._run("", ["pass"], CALM)[0] is None:
        pytest.skip("no namespaces of users here")
    program = "import os\nassert os.getuid() != 0\nassert not os.path.exists('/etc/passwd')\n"
    assert passes(program)
    for path in ("/a", "/dev/a", "/dev/shm/a", "/usr/a"):
        assert not passes(f"open({path!r}, 'w')")
    assert not passes("import os\nopen(f'/proc/{os.getppid()}/fd/1', 'w')")
    assert passes("open('/dev/null', 'w').write('x')\nopen('/tmp/a', 'w').write('x')")


@needs_sandbox
def test_the_score_is_the_share_of_passed_tests() -> None:
    tests = ("assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 6", "assert f(0) == 1")
    scorer = ProgramScorer(tests, allow_code_execution=True, limits=CALM)
    answer = "Here it is:\n```python\ndef f(x):\n    return 2 * x\n```\nIt doubles."
    assert scorer.score("", [answer, "def f(x): return 1", "no program"]) == [0.75, 0.25, 0.0]
    headed = ProgramScorer(tests, allow_code_execution=True, limits=CALM, before="def f(x):\n")
    assert headed.score("", ["    return x * 2\n"]) == [0.75]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", "x = 1"),
        ("A:\n```python\nx = 1\n```\nB\n```\ny = 2\n```", "x = 1\n"),
        ("```\nx = 1", "x = 1"),
    ],
)
def test_the_program_in_an_answer(text: str, program: str) -> None:
    assert program_in(text) == program


def test_public_and_private_tests() -> None:
    assert halves(["a", "b", "c"]) == (["a", "c"], ["b"])


def test_nothing_runs_without_permission() -> None:
    with pytest.raises(OptionError, match=r"without permission.*allow_code_execution=True"):
        ProgramScorer(("pass",))


def test_without_bubblewrap_the_error_says_how_to_install_it(monkeypatch) -> None:
    trouble.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    started = []
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda *a, **k: started.append(a))
    try:
        with pytest.raises(OptionError, match=r"bubblewrap is not installed.*apt-get install") as e:
            ProgramScorer(("pass",), allow_code_execution=True)
        assert "\n" not in str(e.value)
        with pytest.raises(OptionError, match="bubblewrap is not installed"):
            run_tests("", ["pass"], QUICK)
    finally:
        trouble.cache_clear()
    assert started == []


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_sandbox_that_does_not_start_is_refused(monkeypatch) -> None:
    trouble.cache_clear()
    monkeypatch.setattr(sandbox, "command", lambda *given: ["bwrap", "--no-such-option"])
    try:
        with pytest.raises(OptionError, match=r"does not start: bwrap.*user namespaces") as e:
            ProgramScorer(("pass",), allow_code_execution=True)
        assert "\n" not in str(e.value)
    finally:
        trouble.cache_clear()


@pytest.mark.parametrize(
    "options",
    [{"seconds": 0}, {"memory_bytes": 1000}, {"processes": 0}, {"output_bytes": 1}],
)
def test_limits_are_checked(options) -> None:
    with pytest.raises(OptionError):
        ProgramLimits(**options)


def test_a_scorer_needs_tests() -> None:
    with pytest.raises(OptionError, match="no tests"):
        ProgramScorer((), allow_code_execution=True)
