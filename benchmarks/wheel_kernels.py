"""Compares the kernels that a wheel holds with those compiled for this processor.

    python -m benchmarks.wheel_kernels MODEL.gguf LIBRARIES

LIBRARIES is a folder for what `scripts.build_wheel` compiles. Both libraries run the same weights
in one process, in turns and in changing order, on one thread. Figures are medians of CPU time.
"""

import argparse
import ctypes
import statistics
import sys
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from scripts.build_wheel import compile_levels

from outrider.core.types import Prompt, as_ids
from outrider.kernels import prebuilt
from outrider.kernels.compile import shared_library
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.protocols import Segment

ROWS = {1: 61, 8: 31, 64: 9}
"""Rows of a forward, and how often each is run."""
TEXT = 257

loading: Any = import_module("outrider.kernels.library")
runner: Any = import_module("outrider.models.cpu.native")


class Kernels:
    """One library and its threads."""

    def __init__(self, file: Path) -> None:
        self.loaded = ctypes.CDLL(str(file))
        loading._declare(self.loaded)
        self.pool = ctypes.c_void_p(self.loaded.outrider_pool_new(1))

    def use(self) -> None:
        """Make the runner call this library."""
        loading._load = lambda: (self.loaded, "")
        runner.pool = lambda: self.pool


def compare(model: NativeDecoder, both: dict[str, Kernels], rows: int, runs: int) -> None:
    """Print the times of forwards of `rows` rows, and whether the logits are equal."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, TEXT + rows)
    [cache] = model.start([Prompt(token_ids=tuple(int(i) for i in ids[:TEXT]))])
    times: dict[str, list[float]] = {name: [] for name in both}
    logits: dict[str, torch.Tensor] = {}
    for run in range(runs + 1):  # the first one reads the text
        for name in list(both)[:: 1 if run % 2 else -1]:
            both[name].use()
            start = process_time()
            segment = Segment(cache, as_ids(ids[TEXT : TEXT + rows - 1]))
            [found] = model.forward([segment], [np.arange(-1, rows - 1)])
            times[name].append(process_time() - start)
            logits[name] = found.logits
            cache.truncate(TEXT)
    ours, theirs = (statistics.median(times[name][1:]) * 1e3 for name in both)
    ratios = [b / a for a, b in zip(*(t[1:] for t in times.values()), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    equal = torch.equal(*logits.values())
    print(
        f"| {rows} | {ours:.2f} | {theirs:.2f} | {middle:.3f} ({low:.3f} to {high:.3f}) | {equal} |"
    )


def main() -> None:
    """Print a table for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("libraries", type=Path)
    given = parser.parse_args()
    given.libraries.mkdir(parents=True, exist_ok=True)
    compile_levels(given.libraries)
    prebuilt.FOLDER = given.libraries
    chosen = prebuilt.prebuilt_library()
    if chosen is None:
        sys.exit("none of the libraries runs on this processor")
    print(f"compiled here against {chosen.name.split('-', 1)[1].rsplit('-', 2)[0]}")
    both = {"native": Kernels(shared_library()), "wheel": Kernels(chosen)}
    both["native"].use()
    for name in ("stored", "int8", "float32"):
        model = NativeDecoder.load(given.model, dtype=FORMATS[name].dtype, threads=1)
        print(f"{name}: rows, ms compiled here, ms from the wheel, ratio (quartiles), equal bits")
        for rows, runs in ROWS.items():
            compare(model, both, rows, runs)


if __name__ == "__main__":
    main()
