"""Builds the wheel for Linux on x86-64, which holds compiled kernels for several processors.

    python -m scripts.build_wheel [FOLDER]

writes it to FOLDER (`dist`). It needs a C compiler and `objdump`, and the package hatchling. The
name of the wheel tells the oldest glibc that its libraries run with, read from the libraries.
"""

import base64
import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from outrider.kernels.compile import build, find_compiler
from outrider.kernels.levels import LEVELS, Level
from outrider.kernels.prebuilt import is_intact, stem_of

ROOT = Path(__file__).parents[1]
INSIDE = "outrider/kernels/prebuilt"
ALLOWED = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}
"""Libraries of every Linux with glibc (PEP 600) that kernels may need."""
OLDEST = (2, 17)
"""Of glibc on x86-64, below which no tag is in use."""


class WheelError(Exception):
    """The wheel cannot be built; the message is one line."""


def main(folder: Path) -> Path:
    """Build everything; return the wheel."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise WheelError("the wheel with compiled kernels is for Linux on x86-64; build it there")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        libraries = compile_levels(Path(scratch))
        return with_libraries(pure_wheel(Path(scratch)), libraries, folder)


def compile_levels(folder: Path) -> list[Path]:
    """Compile the kernels for all levels; return the libraries, named with their checksums.

    Libraries of the same sources and options that are in `folder` already are kept.
    """
    return [_kept(folder, level) or _compile(folder, level) for level in LEVELS]


def _kept(folder: Path, level: Level) -> Path | None:
    found = folder.glob(f"{stem_of(level)}-*.so")
    return next((file for file in found if is_intact(file)), None)


def _compile(folder: Path, level: Level) -> Path:
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        draft = Path(scratch) / "kernels.so"
        complaint = build([*compiler, *level.options], draft)
        if not draft.is_file():
            raise WheelError(f"{compiler[0]} failed for {level.name}: {complaint}")
        subprocess.run(["strip", "--strip-unneeded", str(draft)], check=True)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        return draft.replace(folder / f"{stem_of(level)}-{digest}.so")


def glibc_of(libraries: Iterable[Path]) -> tuple[int, int]:
    """Return the oldest version of glibc with which all libraries can be loaded.

    Raises:
        WheelError: one needs a library that not every Linux has.
    """
    needed = OLDEST
    for library in libraries:
        told = subprocess.run(
            ["objdump", "-p", str(library)], capture_output=True, text=True, check=True
        ).stdout
        if strange := set(re.findall(r"NEEDED +(\S+)", told)) - ALLOWED:
            raise WheelError(f"{library.name} needs {', '.join(sorted(strange))}")
        for major, minor in re.findall(r"\bGLIBC_(\d+)\.(\d+)", told):
            needed = max(needed, (int(major), int(minor)))
    return needed


def pure_wheel(folder: Path) -> Path:
    """Build the wheel of the Python files with hatchling."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise WheelError(f"hatchling failed: {''.join(last)}")
    return next(folder.glob("*-py3-none-any.whl"))


def with_libraries(pure: Path, libraries: Sequence[Path], folder: Path) -> Path:
    """Write the wheel with the libraries, its tag and its list of files to `folder`."""
    major, minor = glibc_of(libraries)
    tag = f"py3-none-manylinux_{major}_{minor}_x86_64"
    with zipfile.ZipFile(pure) as old:
        files = {name: old.read(name) for name in old.namelist()}
    info = next(name.rpartition("/")[0] for name in files if name.endswith(".dist-info/WHEEL"))
    del files[f"{info}/RECORD"]
    told = files[f"{info}/WHEEL"].decode()
    told = told.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
    files[f"{info}/WHEEL"] = told.replace("Tag: py3-none-any", f"Tag: {tag}").encode()
    files |= {f"{INSIDE}/{library.name}": library.read_bytes() for library in libraries}
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    target = folder / pure.name.replace("py3-none-any", tag)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # the date of all entries is 1980, for equal bytes
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            new.writestr(entry, content)
    return target


def _digest(content: bytes) -> str:
    """Return the hash as lists of files in wheels have it."""
    raw = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + raw.decode().rstrip("=")


if __name__ == "__main__":
    try:
        wheel = main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
    except WheelError as error:
        sys.exit(f"error: {error}")
    print(f"{wheel} ({wheel.stat().st_size / 1e6:.2f} MB)")
