"""The kernels of a wheel on other processors: wide and narrow vectors, and none at all."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.kernels.levels import LEVELS, Level, features

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64"),
]

RUN = """
import sys
from pathlib import Path
import pytest

class Chosen:
    def pytest_configure(self):
        from outrider.kernels import levels, prebuilt

        prebuilt.FOLDER = Path(sys.argv[1])
        needs = next(level.needs for level in levels.LEVELS if level.name == sys.argv[2])
        prebuilt.features = lambda: needs

tests = "(odd and (width or siblings or batch)) or near_float32 or sixteen_bits or passed_on"
options = ["-q", "-p", "no:cacheprovider", "-k", tests, *sys.argv[3:]]
sys.exit(pytest.main(options, plugins=[Chosen()]))
"""
"""Tests of what differs: equal rows in every format, no size a multiple of a vector's, and NaN."""


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_runner_is_right(level: Level, libraries: list[Path], tmp_path: Path) -> None:
    """Tests of the compiled runner, with the kernels of one level."""
    if not level.needs <= features():
        pytest.skip(f"this processor cannot run {level.name}")
    tests = ("--basetemp", str(tmp_path / "tests"), "tests/models/cpu/test_native.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(libraries[0].parent), level.name, *tests],
        env=os.environ | {"CC": "/nonexistent", "OUTRIDER_CACHE": str(tmp_path / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    assert "skipped" not in done.stdout
    assert {file.name[:5] for file in (tmp_path / "cache/kernels").iterdir()} == {"runs-"}
