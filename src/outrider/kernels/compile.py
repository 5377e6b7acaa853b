"""Compiles the kernels to a shared library for this processor and caches it on disk."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from outrider.kernels.cache import KernelWarning, private_folder, read_private

SOURCES = Path(__file__).parent / "csrc"

FLAGS = [
    *("-O3", "-std=c11", "-D_GNU_SOURCE", "-Wno-psabi", "-fPIC", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
"""Contraction is off, so that equal rows give equal bits in every inlined copy of an expression."""

_NATIVE = (["-march=native"], ["-march=native", "-DWITHOUT_AMX"], ["-mcpu=native"], [])
"""Options for the processor of this machine, tried in order: their names differ by compiler, and
old assemblers do not know the instructions of AMX."""

_TIMEOUT = 300.0


class KernelBuildError(Exception):
    """The kernels cannot be compiled on this machine; the message is one line."""


def shared_library() -> Path:
    """Return the path of the compiled kernels; compile them if they are not in the cache.

    The name of the file holds the SHA-256 of its content, which is checked. A file that is
    damaged, or that others could have changed, is never returned: a `KernelWarning` names it, and
    the kernels are compiled again. The environment variable `CC` sets the compiler.

    Raises:
        KernelBuildError: there is no compiler, it fails, or there is no folder for the kernels.
    """
    compiler = find_compiler()
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    try:
        name = f"kernels-{_identity(compiler)}"
        folder = private_folder("kernels")
        kept = sorted(folder.glob(f"{name}-*{suffix}"))
        for file in kept:
            if _intact(file):
                return file
        if kept:
            what = "is damaged, or others could have changed it; the kernels are compiled again"
            warnings.warn(f"{kept[0]} {what}", KernelWarning, stacklevel=2)
        built = _compile(compiler, folder, name, suffix)
        for file in kept:
            if not _intact(file):  # another process may have replaced it
                _remove(file)
    except OSError as error:
        raise KernelBuildError(f"the kernels cannot be compiled: {error}") from error
    return built


def _intact(file: Path) -> bool:
    """Whether only the user can change the file, and it has the content that its name promises."""
    try:
        return hashlib.sha256(read_private(file)).hexdigest() == file.stem.rpartition("-")[2]
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_compiler() -> list[str]:
    """Return the command of a C compiler. Raises `KernelBuildError` if there is none."""
    if chosen := os.environ.get("CC", "").strip():
        try:
            command = shlex.split(chosen)
        except ValueError as error:
            raise KernelBuildError(f"CC is {chosen!r}: {error}") from None
        if command and shutil.which(command[0]):
            return command
        raise KernelBuildError(f"the compiler {chosen!r}, set in CC, does not exist")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise KernelBuildError("there is no C compiler (gcc, clang, or `pip install ziglang`)")


def processor() -> str:
    """Return the processor's name and features, which the flag `native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))]
    return platform.machine() + "".join(dict.fromkeys(told))


def _identity(compiler: list[str]) -> str:
    """Hash the sources, the flags, the compiler and the processor."""
    return hash_of(" ".join([*compiler, *FLAGS, processor()]))


def hash_of(options: str) -> str:
    """Return 16 digits of the hash of the sources and of what they are compiled with."""
    digest = hashlib.sha256(options.encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: list[str], folder: Path, name: str, suffix: str) -> Path:
    """Compile in a new folder inside `folder`, then move the library there in one step: other
    processes may do the same. Return its path, which contains the checksum.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        draft = Path(scratch) / f"{name}{suffix}"
        complaints = [
            build([*compiler, *native], draft) for native in _NATIVE if not draft.is_file()
        ]
        if not draft.is_file():
            raise KernelBuildError(f"{compiler[0]} failed: {complaints[0]}")
        draft.chmod(0o700)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        built = folder / f"{name}-{digest}{suffix}"
        if built.is_dir() and not built.is_symlink():  # `replace` refuses to
            _remove(built)
        draft.replace(built)
    if not _intact(built):
        raise KernelBuildError(f"{built} has changed since it was compiled")
    return built


def build(compiler: list[str], draft: Path) -> str:
    """Translate the sources side by side, the largest first, and link them into `draft`.

    Args:
        compiler: its command, with the options that choose the processor.
        draft: the library, in an existing folder in which object files are left.

    Returns:
        The first line of output that contains an error; empty if there is none.
    """
    command, scratch = [*compiler, *FLAGS], draft.parent
    sources = sorted(SOURCES.glob("*.c"), key=lambda source: -source.name.startswith("tiles"))
    objects = [scratch / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        complaints = list(
            workers.map(
                lambda pair: _attempt([*command, "-c", str(pair[0]), "-o", str(pair[1])]),
                zip(sources, objects, strict=True),
            )
        )
    if not all(one.is_file() for one in objects):
        return next(filter(None, complaints), "it writes no object file")
    whole = [str(one) for one in objects]
    return _attempt([*command, "-shared", *whole, "-lm", "-o", str(draft)])


def _attempt(command: list[str]) -> str:
    """Run the compiler; return the first line of its output that contains an error."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "it did not finish in time"
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    return lines[0] if lines else done.stderr.strip()[:200]
