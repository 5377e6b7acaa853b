"""The filter of system calls: what it answers on each architecture, and in the real sandbox."""

import errno
import platform
import re
from pathlib import Path

import pytest

from outrider.core.errors import OptionError
from outrider.search.scorers import sandbox, sandbox_filter
from outrider.search.scorers.programs import ProgramScorer
from outrider.search.scorers.sandbox import ProgramLimits, run_tests, trouble
from outrider.search.scorers.sandbox_filter import (
    ABSENT,
    ALLOW,
    CALLS,
    DENY,
    KILL,
    MACHINES,
    Machine,
    filter_bytes,
    filter_program,
)

CALM = ProgramLimits(seconds=20.0)
needs_sandbox = pytest.mark.skipif(bool(trouble()), reason=trouble())
pytestmark = pytest.mark.method("pg-td")

USUAL = {"read": (0, 63), "write": (1, 64), "mmap": (9, 222), "munmap": (11, 215)}
USUAL |= {"execve": (59, 221), "exit_group": (231, 94), "wait4": (61, 260), "futex": (202, 98)}
USUAL |= {"openat": (257, 56), "kill": (62, 129), "setresuid": (117, 147), "prctl": (157, 167)}
HEADERS = (
    (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 0),
    (Path("/usr/include/asm-generic/unistd.h"), 1),
)
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)

every_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


def answer(machine: Machine, number: int, argument: int = 0, architecture: int = 0) -> int:
    """Run the filter on a call, as the kernel does."""
    data = {0: number, 4: architecture or machine.architecture, 16: argument & 0xFFFFFFFF}
    program, at, value = filter_program(machine), 0, 0
    while True:
        code, yes, no, given = program[at]
        assert 0 <= yes < 256 and 0 <= no < 256
        at += 1
        if code == 0x06:
            return given
        if code == 0x20:
            value = data[given]
        else:
            holds = {0x15: value == given, 0x35: value >= given, 0x45: bool(value & given)}[code]
            at += yes if holds else no


@every_machine
def test_calls_are_denied_or_allowed_by_their_numbers(machine: Machine) -> None:
    for name, numbers in CALLS.items():
        number = numbers[machine.column]
        assert number is None or answer(machine, number) == DENY, name
    for name, numbers in USUAL.items():
        assert answer(machine, numbers[machine.column], 0xFFFFFFFF) == ALLOW, name
    assert answer(machine, CLONE3[machine.column]) == ABSENT


@every_machine
def test_other_abis_are_refused(machine: Machine) -> None:
    i386, arm = 0x40000003, 0x40000028
    others = [one.architecture for one in MACHINES.values() if one is not machine]
    for architecture in (i386, arm, *others):
        assert answer(machine, 0, architecture=architecture) == KILL
    x32 = 0x40000000
    assert answer(machine, x32) == answer(machine, x32 + 9) == answer(machine, 0xFFFFFFFF) == DENY
    assert answer(machine, x32 - 1) == ALLOW


@every_machine
def test_a_new_process_gets_no_namespace_of_its_own(machine: Machine) -> None:
    number, fork, thread = CLONE[machine.column], 0x01200011, 0x003D0F00
    assert answer(machine, number, fork) == answer(machine, number, thread) == ALLOW
    for bit in (17, 25, 26, 27, 28, 29, 30):  # NEWNS, CGROUP, UTS, IPC, USER, PID, NET
        assert answer(machine, number, fork | 1 << bit) == DENY, bit


@every_machine
def test_sockets_of_the_namespace_only(machine: Machine) -> None:
    allowed = [f for f in range(64) if answer(machine, SOCKET[machine.column], f) == ALLOW]
    assert allowed == [1, 2, 10, 16]


@pytest.mark.parametrize(("header", "column"), HEADERS)
def test_numbers_are_those_of_the_kernel(header: Path, column: int) -> None:
    if not header.exists():
        pytest.skip("the headers of the kernel are not installed")
    line = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
    known = {name: int(number) for name, number in line.findall(header.read_text())}
    table = {**CALLS, **USUAL, "clone": CLONE, "clone3": CLONE3, "socket": SOCKET}
    for name, numbers in table.items():
        if name in known or numbers[column] is None:  # old headers lack the newest calls
            assert known.get(name) == numbers[column], name
    assert len(known.keys() & table.keys()) > 60


CALL = """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
def problem(name, *given):
    ctypes.set_errno(0)
    return ctypes.get_errno() if getattr(library, name)(*given) == -1 else 0
"""


@needs_sandbox
def test_no_memory_is_to_be_had_beside_that_of_the_process() -> None:
    """By the names of the C library: numbers of this file are not involved."""
    tests = [
        "assert problem('shmget', 0, 64 << 20, 0o1600) == 1",
        "assert problem('msgget', 0, 0o1600) == 1",
        "assert problem('semget', 0, 1, 0o1600) == 1",
        "import os\ntry: os.memfd_create('x')\nexcept PermissionError: pass\nelse: assert False",
        "from multiprocessing.shared_memory import SharedMemory\n"
        "try: SharedMemory(create=True, size=1 << 20)\nexcept OSError: pass\nelse: assert False",
    ]
    assert run_tests(CALL, tests, CALM) == [True] * len(tests)


@needs_sandbox
def test_denied_calls_fail_in_the_sandbox() -> None:
    column = MACHINES[platform.machine()].column
    numbers = {name: found[column] for name, found in CALLS.items() if found[column] is not None}
    program = (
        f"{CALL}\nproblems = {{n: problem('syscall', i, *[0] * 6) for n, i in NUMBERS.items()}}"
    )
    program = program.replace("NUMBERS", repr(numbers))
    fork, new_user = 17, 0x10000000
    tests = [
        f"assert set(problems.values()) == {{{errno.EPERM}}}, problems",
        f"assert problem('syscall', {CLONE3[column]}, 0, 0) == {errno.ENOSYS}",
        f"assert problem('syscall', {CLONE[column]}, {fork | new_user}, 0, 0, 0, 0) == 1",
        f"assert problem('socket', 40, 1, 0) == {errno.EPERM}",  # AF_VSOCK
    ]
    assert run_tests(program, tests, CALM) == [True] * len(tests)


@needs_sandbox
def test_programs_have_threads_and_processes() -> None:
    tests = [
        "import threading\nt = threading.Thread(target=found.append, args=(1,))\n"
        "t.start()\nt.join()\nassert found == [1]",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-c', ''], check=True)",
        "import os\nn = os.fork()\nif n == 0: os._exit(3)\nassert os.waitpid(n, 0)[1] == 3 << 8",
        "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'",
    ]
    assert run_tests("found = []", tests, CALM) == [True] * len(tests)


@needs_sandbox
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are those of i386")
def test_calls_of_another_abi_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
assert ctypes.CFUNCTYPE(ctypes.c_int)(at)() == os.getpid()
"""
    assert run_tests(program, ["pass"], CALM) == [False]
    monkeypatch.setattr(sandbox, "filter_bytes", lambda: b"\x06\x00\x00\x00\x00\x00\xff\x7f")
    if run_tests(program, ["pass"], CALM) != [True]:
        pytest.skip("this kernel has no calls of i386")


def test_a_machine_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    trouble.cache_clear()
    try:
        with pytest.raises(OptionError, match="no filter of system calls for riscv64") as e:
            ProgramScorer(("pass",), allow_code_execution=True)
        assert "\n" not in str(e.value)
    finally:
        trouble.cache_clear()


def test_the_form_of_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, machine in MACHINES.items():
        monkeypatch.setattr(platform, "machine", lambda name=name: name)
        found = filter_bytes()
        assert len(found) == 8 * len(filter_program(machine)) < 4096
        assert found[:8] == b"\x20\x00\x00\x00\x04\x00\x00\x00"
    assert sandbox_filter.known()
