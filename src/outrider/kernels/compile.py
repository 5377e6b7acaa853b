"""Compiles the kernels to a shared library for this processor and caches it on disk."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"

_FLAGS = [
    *("-O3", "-std=c11", "-D_GNU_SOURCE", "-Wno-psabi", "-fPIC", "-shared", "-pthread"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
"""Contraction is off, so that equal rows give equal bits in every inlined copy of an expression."""

_NATIVE = (["-march=native"], ["-mcpu=native"], [])
"""Options for the processor of this machine, tried in order: their names differ by compiler."""

_TIMEOUT = 300.0


class KernelBuildError(Exception):
    """The kernels cannot be compiled on this machine; the message is one line."""


def shared_library() -> Path:
    """Return the path of the compiled kernels; compile them if they are not in the cache.

    The environment variable `OUTRIDER_CACHE` sets the cache folder, `CC` the compiler.

    Raises:
        KernelBuildError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    built = cache_folder() / f"kernels-{_identity(compiler)}{suffix}"
    if not built.is_file():
        _compile(compiler, built)
    return built


def find_compiler() -> list[str]:
    """Return the command of a C compiler. Raises `KernelBuildError` if there is none."""
    if chosen := os.environ.get("CC"):
        command = shlex.split(chosen)
        if shutil.which(command[0]):
            return command
        raise KernelBuildError(f"the compiler {chosen!r}, set in CC, does not exist")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise KernelBuildError("there is no C compiler (gcc, clang, or `pip install ziglang`)")


def cache_folder() -> Path:
    """Return the folder for compiled kernels and for measurements of this machine."""
    if chosen := os.environ.get("OUTRIDER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "outrider"


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
    digest = hashlib.sha256(" ".join([*compiler, *_FLAGS, processor()]).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: list[str], built: Path) -> None:
    """Compile in a temporary folder, then move the file to `built` atomically, because another
    process may do the same.
    """
    sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
    try:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            draft = Path(folder) / built.name
            complaints = [
                _attempt([*compiler, *_FLAGS, *native, *sources, "-lm", "-o", str(draft)])
                for native in _NATIVE
                if not draft.is_file()
            ]
            if not draft.is_file():
                raise KernelBuildError(f"{compiler[0]} failed: {complaints[0]}")
            draft.replace(built)
    except OSError as error:
        raise KernelBuildError(f"the kernels cannot be compiled: {error}") from error


def _attempt(command: list[str]) -> str:
    """Run the compiler; return the first line of its output that contains an error."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "it did not finish in time"
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    return lines[0] if lines else done.stderr.strip()[:200]
