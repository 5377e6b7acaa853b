"""What a drafted token takes, by tier of the tiny family: the C call that writes a chain.

    python benchmarks/draft_tokens.py

Median microseconds of a token, eight in one call, behind 200 cached tokens, int8, one thread.
"""

from statistics import median
from time import perf_counter

import torch

from outrider.core.types import NO_IDS, Prompt
from outrider.models.cpu.native import NativeDecoder
from outrider.models.sources.families import family
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

SAMPLINGS = {
    "temperature 0": SamplingParams(seed=1),
    "temperature 0.8, top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95, seed=1),
}


def draft_seconds(
    model: NativeDecoder, params: SamplingParams, length: int = 8, repeats: int = 61
) -> float:
    """Median seconds of one token that a model drafts, behind 200 cached tokens."""
    [cache] = model.start([Prompt(token_ids=tuple(range(5, 205)))])
    sampler, times = Sampler(params), []
    for _ in range(repeats):
        begun = perf_counter()
        model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), length)])
        times.append((perf_counter() - begun) / length)
        cache.commit(())
    return median(times)


def main() -> None:
    """Measure every tier."""
    for tier, folder in family("tiny").items():
        model = NativeDecoder.load(folder, dtype=torch.int8, threads=1)
        for name, params in SAMPLINGS.items():
            print(f"{tier}, {name}: {1e6 * draft_seconds(model, params):.1f} microseconds")


if __name__ == "__main__":
    main()
