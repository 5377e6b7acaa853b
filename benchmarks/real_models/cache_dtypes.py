"""Caches in float32, bfloat16 and 8 bits: divergence, bytes, and time to write at several lengths.

    python -m benchmarks.real_models.cache_dtypes quality MODEL --text stories.txt
    python -m benchmarks.real_models.cache_dtypes speed MODEL --lengths 64 2048 --threads 1 2

`quality` reads 2,000 tokens at a time, since rounding of keys matters most where many are read, and
compares with float32 arithmetic on the same weights: once with only the cache rounded, once with
`--dtype` as well. `speed` times the caches in turn.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.models.quality import compare, read
from outrider.protocols import Segment

_WIDTHS = (1, 8)
_TURNS = 21


def loaded(model: str, dtype: str, threads: int) -> dict[str, NativeDecoder]:
    """Return the model with each kind of cache; the weights are shared."""
    first = NativeDecoder.load(model, dtype=FORMATS[dtype].dtype, threads=threads)
    return {name: first.with_cache(kind) for name, kind in CACHE_DTYPES.items()}


def measure_quality(model: str, dtype: str, text: Path, tokens: int, window: int) -> None:
    """Print the divergence from weights and a cache in float32."""
    threads = os.cpu_count() or 1
    ids = list(Tokenizer.load(model).encode(text.read_text(encoding="utf-8")))[:tokens]
    parts = [ids[start : start + window] for start in range(0, len(ids), window)]
    exact = loaded(model, "float32", threads)
    wanted = [read(exact["float32"], part) for part in parts]
    for weights in ("float32", dtype):
        models = exact if weights == "float32" else loaded(model, weights, threads)
        for cache, one in models.items():
            quality = compare(wanted, [read(one, part) for part in parts])
            size = f"{one.info.bytes_per_token:,} bytes for each token"
            print(f"weights {weights}, cache {cache}: {quality}, {size}", flush=True)


def measure_speed(model: str, dtype: str, lengths: Sequence[int], threads: int) -> None:
    """Print milliseconds of a forward of 1 and of 8 rows after prompts of these lengths."""
    models = loaded(model, dtype, threads)
    for length in lengths:
        ids = tuple(i * 7919 % models["float32"].info.vocab_size for i in range(length))
        caches = {name: one.start([Prompt(token_ids=ids)])[0] for name, one in models.items()}
        for name, one in models.items():
            one.forward([Segment(caches[name], NO_IDS)], [as_ids([-1])])
            caches[name].commit(())
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(_TURNS):
            for name, one in models.items():
                for width in _WIDTHS:
                    begin = time.perf_counter()
                    rows = Segment(caches[name], as_ids([5] * width))
                    one.forward([rows], [as_ids(range(width))])
                    times.setdefault((name, width), []).append(time.perf_counter() - begin)
                    caches[name].commit(())
        for width in _WIDTHS:
            base = times["float32", width]
            for name in models:
                own = times[name, width]
                ratios = sorted(b / o for b, o in zip(base, own, strict=True))
                quarter = len(ratios) // 4
                print(
                    f"{threads} threads, {length} tokens, {width} rows, {name}: "
                    f"{statistics.median(own) * 1e3:.2f} ms, {statistics.median(ratios):.2f} times "
                    f"float32 [{ratios[quarter]:.2f}, {ratios[-1 - quarter]:.2f}]",
                    flush=True,
                )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("model")
    parser.add_argument("--dtype", default="stored", choices=FORMATS)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--window", type=int, default=2000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 512, 2048, 7000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print(f"load average {os.getloadavg()}, torch {torch.__version__}")
    if given.what == "quality":
        if given.text is None:
            parser.error("quality needs --text, a file of prose")
        measure_quality(given.model, given.dtype, given.text, given.tokens, given.window)
    else:
        for threads in given.threads:
            measure_speed(given.model, given.dtype, given.lengths, threads)
    print(f"load average {os.getloadavg()}")


if __name__ == "__main__":
    main()
