"""Compiled once, kept, and a clear reason where it cannot be."""

import os
import stat
import sys
from pathlib import Path

import pytest

from outrider.kernels import compile as compiling
from outrider.kernels.compile import KernelBuildError, find_compiler, shared_library

needs_compiler = pytest.mark.skipif(
    not any(os.access(f"/usr/bin/{name}", os.X_OK) for name in ("cc", "gcc", "clang")),
    reason="no C compiler",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache"


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.slow
@needs_compiler
def test_the_second_time_it_is_there(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shared_library()
    assert first.is_file() and [*(own_cache / "kernels").iterdir()] == [first]
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("compiled again"))
    assert shared_library() == first


@needs_compiler
def test_other_sources_or_processors_get_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = compiling._identity(["cc"])
    monkeypatch.setattr(compiling, "processor", lambda: "another one")
    assert compiling._identity(["cc"]) != one


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)
    with pytest.raises(KernelBuildError, match="there is no C compiler"):
        shared_library()


def test_ziglang_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(compiling, "find_spec", lambda name: name == "ziglang")
    assert find_compiler() == [sys.executable, "-m", "ziglang", "cc"]


def test_cc_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(KernelBuildError, match="no-such-compiler"):
        shared_library()


@pytest.mark.parametrize("quote", ["gcc '", '"cc'])
def test_cc_with_an_open_quote(quote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", quote)
    with pytest.raises(KernelBuildError, match=r"CC is .*No closing quotation"):
        shared_library()


@pytest.mark.parametrize("blank", [" ", "\t\n"])
def test_blank_cc_is_no_choice(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", blank)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "gcc" else None)
    assert find_compiler() == ["/bin/gcc"]


@pytest.mark.parametrize("empty", ["''", "# gcc"])
def test_cc_without_a_command(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", empty)
    with pytest.raises(KernelBuildError, match="set in CC, does not exist"):
        find_compiler()


def test_a_compiler_that_writes_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = 'import sys\nsys.stderr.buffer.write(b"error: \\xff\\xfe")\nsys.exit(1)\n'
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", body)))
    with pytest.raises(KernelBuildError, match="failed: error"):
        shared_library()


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_CACHE", "~no-such-user/cache")
    with pytest.raises(KernelBuildError, match="OUTRIDER_CACHE"):
        shared_library()


def test_a_compiler_that_fails(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'import sys\nprint("x.c:1: error: no such header", file=sys.stderr)\nsys.exit(1)\n'
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", body)))
    with pytest.raises(KernelBuildError, match="error: no such header"):
        shared_library()
    assert [*(own_cache / "kernels").iterdir()] == []


def test_a_compiler_that_knows_no_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "import sys, pathlib\n"
        'if any("native" in word for word in sys.argv): sys.exit("error: bad value")\n'
        'pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("built")\n'
    )
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", body)))
    assert shared_library().read_text() == "built"


def test_a_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", "")))
    with pytest.raises(KernelBuildError, match="cannot be compiled"):
        shared_library()
