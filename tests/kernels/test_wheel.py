"""The wheel with compiled kernels runs where there is no compiler."""

import os
import site
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripts.build_wheel import WheelError, glibc_of, pure_wheel, with_libraries

import outrider
from outrider import kernels
from outrider.kernels.levels import LEVELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("hatchling"), reason="needs the package hatchling"),
]

WRITE = """
import outrider
from outrider import kernels

assert kernels.available(), kernels.reason_missing()
print(kernels.library()._name)
model = outrider.load("tiny", mode="none", device="cpu", dtype="int8", threads=1)
print(model.generate("Once upon a time", max_new_tokens=8).token_ids)
"""


@pytest.fixture(scope="module")
def wheel(libraries: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return with_libraries(pure_wheel(folder), libraries, folder)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which takes the dependencies from this one."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    into = ["--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "-q", *into, str(wheel)], check=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin/python"


def run(python: Path, cache: Path) -> list[str]:
    """Run `WRITE` without a compiler; return what it prints."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OUTRIDER_KERNELS")}
    settings = {"CC": "/nonexistent", "PATH": str(cache), "OUTRIDER_CACHE": str(cache)}
    done = subprocess.run(
        [python, "-c", WRITE],
        env=clean | settings,
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_the_text_is_that_of_kernels_compiled_here(python: Path, tmp_path: Path) -> None:
    assert kernels.available(), kernels.reason_missing()
    library, ids = run(python, tmp_path)
    assert "kernels/prebuilt/kernels-" in library and str(python.parents[1]) in library
    assert {file.name[:5] for file in (tmp_path / "kernels").iterdir()} == {"runs-"}
    model = outrider.load("tiny", mode="none", device="cpu", dtype="int8", threads=1)
    expected = model.generate("Once upon a time", max_new_tokens=8).token_ids
    assert ids == str(expected) and len(expected) == 8


def test_its_name_and_files(wheel: Path, libraries: list[Path]) -> None:
    major, minor = glibc_of(libraries)
    assert wheel.name.endswith(f"-py3-none-manylinux_{major}_{minor}_x86_64.whl")
    with zipfile.ZipFile(wheel) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        [record] = [name for name in names if name.endswith(".dist-info/RECORD")]
        listed = [line.split(",")[0] for line in opened.read(record).decode().splitlines()]
        told = opened.read(record.replace("RECORD", "WHEEL")).decode()
    assert sorted(listed) == sorted(names)
    assert "Root-Is-Purelib: false" in told and f"_{minor}_x86_64" in told
    assert sum("kernels/prebuilt/" in name for name in names) == len(LEVELS)
    assert "outrider/kernels/csrc/forward.c" in names


def test_a_library_that_needs_another_is_refused(tmp_path: Path) -> None:
    def made(name: str, *options: str) -> Path:
        (tmp_path / "x.c").write_text("int f(void) { return 0; }")
        target = tmp_path / f"lib{name}.so"
        command = ["gcc", "-shared", "-fPIC", str(tmp_path / "x.c"), *options, "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    assert glibc_of([made("own")]) == (2, 17)
    needy = made("needy", "-Wl,--no-as-needed", f"-L{tmp_path}", "-lown")
    with pytest.raises(WheelError, match=r"libneedy.so needs libown.so"):
        glibc_of([needy])
