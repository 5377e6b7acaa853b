"""Memory is measured, not assumed."""

import numpy as np
import pytest
import torch

from outrider.bench.memory import (
    MIB,
    bandwidth_gb_s,
    last_level_cache,
    peak_bytes,
    reset_peak,
)


@pytest.mark.usefixtures("unchecked")
def test_the_peak_rises_with_what_is_held() -> None:
    if not reset_peak():
        pytest.skip("this system does not forget its peak")
    before = peak_bytes()
    held = np.ones(1024 * MIB, dtype=np.uint8)  # more than earlier tests have freed
    assert peak_bytes() >= before + 200 * MIB
    del held
    assert peak_bytes() >= before + 200 * MIB
    reset_peak()
    assert peak_bytes() < before + 30 * MIB


@pytest.mark.slow
def test_bandwidth_is_that_of_a_memory() -> None:
    threads = torch.get_num_threads()
    assert 0.2 < bandwidth_gb_s(1, seconds=0.05) < 5000
    assert torch.get_num_threads() == threads
    assert last_level_cache() >= 32 * MIB
