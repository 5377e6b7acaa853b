"""The kernels for processors other than this one: wide and narrow vectors, and none at all."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not shutil.which("gcc"), reason="needs gcc on x86-64"
    ),
]


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_the_runner_is_right(target: str, tmp_path: Path) -> None:
    """The tests of the compiled runner, with kernels built for `target`."""
    flags = Path("/proc/cpuinfo").read_text()
    if (target.endswith("v4") and "avx512f" not in flags) or "avx2" not in flags:
        pytest.skip(f"this processor cannot run {target}")
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/bash\nexec gcc "${{@/-march=native/-march={target}}}"\n')
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/models/cpu/test_native.py"],
        env=os.environ | {"CC": str(compiler), "OUTRIDER_CACHE": str(tmp_path / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "skipped" not in done.stdout
    assert list((tmp_path / "cache/kernels").glob("kernels-*"))
