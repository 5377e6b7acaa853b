"""The NEON kernels have the bits of plain C, and of AVX2, in an emulator of 64-bit ARM."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.kernels.compile import FLAGS, SOURCES, hash_of

HERE = Path(__file__).parent
EMULATOR, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"


def _missing() -> str:
    absent = [name for name in (EMULATOR, COMPILER, "gcc") if not shutil.which(name)]
    if platform.machine() != "x86_64" or "avx2" not in Path("/proc/cpuinfo").read_text():
        absent.append("x86-64 with AVX2")
    return ", ".join(absent)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_missing()), reason=f"missing: {_missing()}"),
]

TARGETS = {
    "plain C": ("-march=armv8-a", "-U__ARM_NEON"),
    "NEON": ("-march=armv8-a",),
    "NEON with dot products": ("-march=armv8.2-a+dotprod",),
}


@pytest.fixture(scope="module")
def calls(libraries: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Calls that an AVX2 build has run: it stores weights and activations as ARM does."""
    folder = tmp_path_factory.mktemp("calls")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.emulated.record", libraries[0].parent, folder],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return sorted(file.with_suffix("") for file in folder.glob("*.here"))


def build(options: tuple[str, ...], folder: Path) -> Path:
    """Return the driver that is compiled with these options."""
    flags = [*FLAGS, *options, "-static"]
    source = HERE / "emulated/driver.c"
    driver = folder / f"driver-{hash_of(source.read_text() + ' '.join(flags))}"
    if not driver.is_file():
        draft = driver.with_name(f"{driver.name}-{os.getpid()}")
        sources = [str(source), *map(str, sorted(SOURCES.glob("*.c")))]
        command = [COMPILER, *flags, f"-I{SOURCES}", *sources, "-lm", "-o", str(draft)]
        subprocess.run(command, check=True, timeout=500)
        draft.replace(driver)
    return driver


@pytest.mark.parametrize("target", TARGETS)
def test_the_bits_are_those_of_avx2(target: str, calls: list[Path], compiled: Path) -> None:
    """Logits, hidden states, caches, repacked weights and chains of every recorded call.

    Plain C fuses multiply and add here as well, so all sums of floats round alike.
    """
    driver = build(TARGETS[target], compiled)
    subprocess.run([EMULATOR, str(driver), *map(str, calls)], check=True, timeout=500)
    differing = [
        call.name
        for call in calls
        if Path(f"{call}.out").read_bytes() != Path(f"{call}.here").read_bytes()
    ]
    assert not differing, f"{len(differing)} of {len(calls)} calls differ: {differing[:5]}"
    assert {call.name.rpartition("-")[2] for call in calls} == {
        *("forward", "embed", "write", "repack", "topk")
    }
