"""The library of a wheel that is chosen, and those that never are."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from outrider.kernels import prebuilt
from outrider.kernels.cache import KernelWarning
from outrider.kernels.levels import LEVELS, features, fitting
from outrider.kernels.prebuilt import prebuilt_library, stem_of

NAMES = {
    2: ["fpu", "pni", "ssse3", "sse4_1", "sse4_2", "cx16", "lahf_lm", "popcnt"],
    3: ["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"],
    4: ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
}
HASWELL = frozenset(NAMES[2] + NAMES[3])
WIDE = HASWELL | set(NAMES[4])


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (frozenset(), "plain"),
        (HASWELL - {"fma"}, "plain"),
        (HASWELL, "avx2"),
        (HASWELL | {"avx512f", "avx512_vnni"}, "avx2"),
        (HASWELL | {"avx_vnni"}, "avx2-vnni"),
        (WIDE, "avx512"),
        (WIDE | {"avx_vnni"}, "avx512"),
        (WIDE | {"avx512_vnni", "avx_vnni", "amx_tile", "amx_int8"}, "avx512-vnni"),
        ((WIDE | {"avx512_vnni"}) - {"f16c"}, "plain"),
    ],
)
def test_the_level_follows_from_the_features(found: frozenset[str], name: str) -> None:
    assert fitting(found)[0].name == name
    assert fitting(found)[-1].name == "plain"


def test_a_level_needs_what_its_options_use() -> None:
    """All features of the level below it, but those of another line of processors."""
    by_name = {level.name: level for level in LEVELS}
    assert by_name["plain"].needs < by_name["avx2"].needs < by_name["avx512"].needs
    assert by_name["avx512-vnni"].needs - by_name["avx512"].needs == {"avx512_vnni"}
    assert by_name["avx2-vnni"].needs - by_name["avx2"].needs == {"avx_vnni"}


def test_the_features_of_this_processor_are_known() -> None:
    text = Path("/proc/cpuinfo")
    if not text.is_file() or "flags" not in text.read_text():
        pytest.skip("no list of features here")
    assert "sse2" in features()


def test_a_source_tree_has_none() -> None:
    assert not prebuilt.FOLDER.exists() and prebuilt_library() is None


# -- libraries that are not chosen -----------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library for two levels: `avx2` refuses its instructions, `plain` works."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "prebuilt")
    (tmp_path / "prebuilt").mkdir()
    bodies = {"avx2": "__builtin_trap(); return 1;", "plain": "return 1;"}
    for level in LEVELS:
        if body := bodies.get(level.name):
            add(tmp_path / "prebuilt", stem_of(level), body)
    return tmp_path / "prebuilt"


def add(folder: Path, stem: str, body: str) -> Path:
    """Compile a library whose probe has this body, and name it with its checksum."""
    (folder / "x.c").write_text(f"int outrider_probe(void) {{ {body} }}")
    command = ["gcc", "-shared", "-fPIC", str(folder / "x.c"), "-o", str(folder / "x.so")]
    subprocess.run(command, check=True)
    digest = hashlib.sha256((folder / "x.so").read_bytes()).hexdigest()
    return (folder / "x.so").rename(folder / f"{stem}-{digest}.so")


def level_of(file: Path | None) -> str:
    assert file is not None
    return next(level.name for level in LEVELS if file.name.startswith(stem_of(level)))


def test_instructions_that_trap_lead_to_the_next_level(folder: Path) -> None:
    assert level_of(prebuilt_library(HASWELL)) == "plain"


def test_wrong_results_lead_to_none(folder: Path) -> None:
    for file in folder.glob("*.so"):
        file.unlink()
    add(folder, stem_of(LEVELS[-1]), "return 0;")
    assert prebuilt_library(HASWELL) is None


def test_a_library_runs_in_a_child_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prebuilt_library(frozenset())
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("again"))
    assert level_of(first) == "plain" and prebuilt_library(frozenset()) == first
    monkeypatch.setattr(prebuilt, "processor", lambda: "another one")
    with pytest.raises(pytest.fail.Exception, match="again"):
        prebuilt_library(frozenset())


def test_a_cache_that_can_not_be_written_does_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_CACHE", str(folder / "x.c" / "cache"))
    assert level_of(prebuilt_library(frozenset())) == "plain"


def test_a_damaged_library_is_named_and_not_used(folder: Path) -> None:
    [plain] = folder.glob("kernels-plain-*.so")
    plain.write_bytes(plain.read_bytes()[:-1] + b"\x01")
    with pytest.warns(KernelWarning, match="kernels-plain-.*is damaged"):
        assert prebuilt_library(frozenset()) is None


def test_a_library_of_other_sources_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/other.c").write_text("")
    monkeypatch.setattr("outrider.kernels.compile.SOURCES", tmp_path / "csrc")
    assert prebuilt_library(frozenset()) is None
