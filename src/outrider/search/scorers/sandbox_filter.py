"""The filter of system calls for programs in the sandbox: a program of classic BPF for seccomp.

The limit on memory is one on the address space of each process. Calls that take memory besides
(shared memory and messages of System V, files in memory) fail with EPERM, as do calls that a
program needs for none of its work and that reach much of the kernel. All other calls are allowed.

A filter reads `struct seccomp_data`: the number of the call, the architecture, and the arguments.
See `man 2 seccomp` and the kernel's `filter.txt` for the instructions.
"""

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if a test holds, the same if it does not, and a number."""

_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
"""Places in `struct seccomp_data`; of the first argument, the lower half (little endian)."""
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

ALLOW = 0x7FFF0000
KILL = 0x80000000
"""Ends the process."""
_ERROR = 0x00050000
DENY = _ERROR | errno.EPERM
ABSENT = _ERROR | errno.ENOSYS
"""As if the kernel did not know the call, so that libraries use an older one."""

_X32 = 0x40000000
"""Numbers from here on are calls of the x32 ABI, which would pass by the other numbers."""
_NAMESPACES = 0x7E020000
"""CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWNS. The arguments of `clone3` lie
in memory, which a filter cannot read."""
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK. Some others, such as AF_VSOCK, are not held back by a
namespace of the network."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Numbers of an architecture.

    Attributes:
        architecture: its `AUDIT_ARCH_` constant.
        column: its place in the table of calls.
    """

    architecture: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}

_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)

CALLS: dict[str, tuple[int | None, int | None]] = {
    # memory that is not in the address space of a process
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    # calls that pass by this filter
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # namespaces and file systems
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # the machine
    "acct": (163, 89),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "iopl": (172, None),
    "ioperm": (173, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "reboot": (169, 142),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "uselib": (134, None),
    "vhangup": (153, 58),
}
"""Calls that fail: their numbers on x86_64 and on aarch64; None: there is no such call."""


def known() -> bool:
    """Whether there is a filter for this machine."""
    return platform.machine() in MACHINES


def filter_program(machine: Machine) -> list[Instruction]:
    """Return the filter for an architecture."""
    column = machine.column
    denied = [numbers[column] for numbers in CALLS.values()]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.architecture),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_where(_AT_LEAST, _X32, DENY),
        *_where(_EQUAL, _CLONE3[column], ABSENT),
    ]
    for number in denied:
        if number is not None:
            program += _where(_EQUAL, number, DENY)
    families = [part for family in _FAMILIES for part in _where(_EQUAL, family, ALLOW)]
    program += _call(_CLONE[column], [*_where(_ANY_BIT, _NAMESPACES, DENY), (_RETURN, 0, 0, ALLOW)])
    program += _call(_SOCKET[column], [*families, (_RETURN, 0, 0, DENY)])
    return [*program, (_RETURN, 0, 0, ALLOW)]


def _where(test: int, number: int, answer: int) -> list[Instruction]:
    """Return instructions that end with an answer where a test of the loaded number holds."""
    return [(test, 0, 1, number), (_RETURN, 0, 0, answer)]


def _call(number: int, rest: Sequence[Instruction]) -> list[Instruction]:
    """Return instructions that judge one call by its first argument; `rest` must answer."""
    return [(_EQUAL, 0, 1 + len(rest), number), (_LOAD, 0, 0, _ARGUMENT), *rest]


def filter_bytes() -> bytes:
    """Return the filter for this machine in the form that `bwrap --seccomp` reads.

    Raises:
        KeyError: there is none for its architecture.
    """
    program = filter_program(MACHINES[platform.machine()])
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
