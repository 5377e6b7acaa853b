"""What tests of kernels for other processors compile; it stays in the cache for later runs."""

import shutil
from pathlib import Path

import pytest
from scripts.build_wheel import compile_levels

from outrider.kernels.cache import private_folder


@pytest.fixture(scope="session")
def compiled() -> Path:
    """The folder of what tests compile, which takes minutes; names hold hashes of the sources."""
    return private_folder("tests")


@pytest.fixture(scope="session")
def libraries(compiled: Path) -> list[Path]:
    """The libraries that the wheel holds."""
    if not all(shutil.which(name) for name in ("gcc", "strip", "objdump")):
        pytest.skip("needs gcc, strip and objdump")
    return compile_levels(compiled)
