"""Libraries in the cache that are damaged, planted or unreadable are never loaded."""

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any

import pytest

from outrider import kernels
from outrider.kernels import cache
from outrider.kernels import compile as compiling
from outrider.kernels.cache import (
    CacheError,
    CacheLimits,
    KernelWarning,
    private_folder,
    read_private,
)
from outrider.kernels.compile import KernelBuildError, shared_library

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")

BUILT = b"\x7fELF a library, as far as this test goes" * 3000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and a compiler that writes `BUILT` and counts the libraries that it links."""
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "built").write_bytes(BUILT)
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -c "*) ;; *) echo run >> "{tmp_path}/runs" ;; esac\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'cat "{tmp_path}/built" > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    return tmp_path / "cache/kernels"


def runs(folder: Path) -> int:
    return len((folder.parents[1] / "runs").read_text().splitlines())


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def replace_by_symlink(file: Path) -> None:
    moved = file.with_name("elsewhere")
    file.rename(moved)
    file.symlink_to(moved)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


def replace_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def cut(length: int) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, length)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": cut(0),
    "half": cut(len(BUILT) // 2),
    "one byte short": cut(len(BUILT) - 1),
    "a flipped bit": flip,
    "longer": cut(len(BUILT) + 1),
    "another library": lambda file: file.write_bytes(b"\x7fELF another library"),
    "a text": lambda file: file.write_text("not a library"),
    "a symbolic link": replace_by_symlink,
    "a folder": replace_by_folder,
    "a pipe": replace_by_pipe,
    "others can write": lambda file: file.chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_compiled_again_with_one_warning(damage: str, folder: Path) -> None:
    first = shared_library()
    assert shared_library() == first and runs(folder) == 1
    DAMAGES[damage](first)
    with pytest.warns(KernelWarning) as told:
        again = shared_library()
    assert len(told) == 1 and str(first) in str(told[0].message)
    assert "\n" not in str(told[0].message)
    assert again == first and again.read_bytes() == BUILT and runs(folder) == 2
    assert shared_library() == first and runs(folder) == 2


def test_a_library_of_another_build_under_a_false_name_is_removed(folder: Path) -> None:
    first = shared_library()
    planted = first.with_name(first.name.replace(first.stem[-64:], "0" * 64))
    first.rename(planted)
    with pytest.warns(KernelWarning, match="0000"):
        assert shared_library() == first
    assert not planted.exists()


def owned_by_another(function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    def call(*arguments: Any) -> os.stat_result:
        found = list(function(*arguments))
        found[4] = os.geteuid() + 12345
        return os.stat_result(found)

    return call


def replace_in_cache(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Replace functions of `os` for the module alone."""
    names = {name: getattr(os, name) for name in dir(os)} | functions
    monkeypatch.setattr(cache, "os", SimpleNamespace(**names))


def test_a_library_of_another_user_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_library()
    replace_in_cache(monkeypatch, fstat=owned_by_another(os.fstat))
    # The new one belongs to another user, too.
    with pytest.warns(KernelWarning), pytest.raises(KernelBuildError, match="has changed since"):
        shared_library()


def test_a_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_library()
    replace_in_cache(monkeypatch, stat=owned_by_another(os.stat))
    with pytest.raises(KernelBuildError, match="belongs to another user"):
        shared_library()
    assert runs(folder) == 1


def test_a_world_writable_folder_is_made_private(folder: Path) -> None:
    first = shared_library()
    folder.chmod(0o777)
    assert shared_library() == first
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_world_writable_folder_that_stays_so_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_library()
    folder.chmod(0o777)

    def refused(self: Path, mode: int) -> None:
        raise PermissionError(mode)

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(KernelBuildError, match="others can write to"):
        shared_library()


def test_files_are_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        built = shared_library()
        cache.write_private(folder / "figures.json", b"{}")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert built.stat().st_mode & 0o777 == 0o700
    assert (folder / "figures.json").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in folder.iterdir()) == sorted(["figures.json", built.name])


def test_a_cache_that_cannot_be_written_falls_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only folder, or a full disk."""
    first = shared_library()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling.tempfile, "TemporaryDirectory", full)
    assert shared_library() == first  # needs no room
    flip(first)
    with pytest.warns(KernelWarning), pytest.raises(KernelBuildError, match="No space left"):
        shared_library()


def test_a_library_without_the_kernels_is_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = import_module("outrider.kernels.library")
    monkeypatch.setattr(library, "_open", lambda: (ctypes.CDLL(None), Path()))
    monkeypatch.delenv("OUTRIDER_KERNELS", raising=False)
    loaded, reason = library._load.__wrapped__()
    assert loaded is None and "outrider_pool_new" in reason


def test_the_check_is_quick(folder: Path) -> None:
    (folder.parents[1] / "built").write_bytes(bytes(1 << 20))
    file = shared_library()
    seconds: list[float] = []
    for _ in range(10):
        begun = process_time()
        assert compiling._intact(file)
        seconds.append(process_time() - begun)
    assert min(seconds) < 0.005


def test_a_written_file_is_the_old_one_or_the_new_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_library()
    file = folder / "figures.json"
    cache.write_private(file, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    replace_in_cache(monkeypatch, replace=full)
    with pytest.raises(OSError):
        cache.write_private(file, b"new")
    assert read_private(file) == b"old" and len([*folder.iterdir()]) == 2


def test_a_huge_file_is_not_read(folder: Path) -> None:
    file = private_folder("kernels") / "huge"
    file.touch(0o600)
    os.truncate(file, cache.LIMITS.file_bytes + 1)
    with pytest.raises(CacheError, match="more than"):
        read_private(file)


def test_the_page_of_limits_states_them() -> None:
    page = (Path(__file__).parents[2] / "docs/limits.md").read_text(encoding="utf-8")
    section = page.partition("## The kernel cache\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section, re.M))
    stated = {name: int(value.replace(",", "")) for name, value in rows.items()}
    assert stated == asdict(CacheLimits())


def test_threads_that_compile_at_once_get_the_same_library(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        outputs = set(pool.map(lambda _: shared_library(), range(4)))
    [file] = folder.iterdir()
    assert outputs == {file} and file.read_bytes() == BUILT


@pytest.mark.slow
def test_processes_that_compile_at_once_get_the_same_library(folder: Path) -> None:
    damaged = shared_library()
    flip(damaged)
    code = "from outrider.kernels.compile import shared_library as s; print(s())"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    outputs = {child.communicate(timeout=60)[0].strip() for child in children}
    assert {child.returncode for child in children} == {0}
    [file] = folder.iterdir()
    assert outputs == {str(file)} and file.read_bytes() == BUILT


LOAD = """
import json, sys, warnings
warnings.simplefilter("always")
from outrider import kernels
print(json.dumps([kernels.available(), kernels.reason_missing()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_does_not_end_the_process(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real kernels, in a process of its own: it would end by SIGBUS or SIGSEGV."""
    if not kernels.available():
        pytest.skip(kernels.reason_missing())
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    DAMAGES[damage](shared_library())
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, ""]
    assert done.stderr.count("KernelWarning") == 1
