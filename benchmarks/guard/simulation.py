"""Simulates the guard of drafting on a virtual machine, and prints what its constants give.

Three tables: the slowest 2,000 rounds under drafters that lose (the promise is 0.97 of the speed
without drafts), the epochs until drafting is switched off, and what drafts that gain keep. Then a
count: runs in which a drafter that gains 10 % is switched off.

    python -m benchmarks.guard.simulation --seeds 20
    python -m benchmarks.guard.simulation --only ten-percent --seeds 300 --rounds 144000
"""

import argparse
from collections.abc import Iterator

import numpy as np
from benchmarks.guard.machine import (
    NOISE,
    Machine,
    Round,
    alternating,
    off,
    stalling,
    steady,
    turning,
)

from outrider.policies.guard.watch import EPOCH, FLANK

TABLES = ("promise", "delays", "gains", "ten-percent")
_WINDOW = 2000


def losing() -> Iterator[tuple[str, Round]]:
    """Yield drafters that lose, at first or later, by name."""
    for speed in (0.3, 0.6, 0.8, 0.9, 0.95):
        yield f"always {speed}", steady(speed)
    for gain in (1.1, 2.0):
        for speed in (0.3, 0.6, 0.8):
            good, bad = steady(gain), steady(speed)
            yield f"{gain}, from round 5,000 on {speed}", turning(good, bad, 5000)
            for every in (50, 200, 1000):
                yield f"{gain} and {speed} in turn, {every} rounds", alternating(good, bad, every)
    yield "1.2, one of 10 rounds 7 longer", stalling(steady(1.2), 0.1, 7.0)
    yield "1.2, one of 33 rounds 20 longer", stalling(steady(1.2), 0.03, 20.0)
    yield "1.2, one of 100 rounds 100 longer", stalling(steady(1.2), 0.01, 100.0)


def promise(seeds: int, rounds: int) -> None:
    """Print the speed of the first and of the slowest 2,000 rounds."""
    print("| drafter, in tokens/s of undrafted | first 2,000 rounds | slowest 2,000 | worst seed |")
    print("|---|---|---|---|")
    for name, make in losing():
        found = [Machine(make, seed=seed).run(rounds) for seed in range(seeds)]
        first = np.mean([m.speed(0, _WINDOW) for m in found])
        slowest = [m.slowest(_WINDOW) for m in found]
        print(f"| {name} | {first:.3f} | {np.mean(slowest):.3f} | {min(slowest):.3f} |", flush=True)


def delays(seeds: int, rounds: int) -> None:
    """Print how many epochs of drafted rounds pass until drafting is switched off."""
    print("| speed | tokens of a round | seeds switched off | epochs, median | 9 of 10 |")
    print("|---|---|---|---|---|")
    for spread in (False, True):
        for speed in (0.6, 0.8, 0.9, 0.95, 1.0):
            found = [Machine(steady(speed, spread), seed=s).run(rounds, off) for s in range(seeds)]
            epochs = [len(m.drafted) / EPOCH for m in found if off(m)]
            tokens = "1 to 5" if spread else "always 1.5"
            low, high = np.quantile(epochs, (0.5, 0.9)) if epochs else (np.nan, np.nan)
            share = f"{len(epochs)} of {seeds}"
            print(f"| {speed} | {tokens} | {share} | {low:.1f} | {high:.1f} |", flush=True)


def gains(seeds: int, rounds: int) -> None:
    """Print what drafters that gain keep of it, and how often they are switched off."""
    print("| speed | noise of a round | speed under the guard | rounds that draft | switched off |")
    print("|---|---|---|---|---|")
    for noise in (NOISE, 2 * NOISE):
        for speed in (1.0, 1.05, 1.1, 1.2, 1.5, 2.0):
            found = [Machine(steady(speed), noise=noise, seed=s).run(rounds) for s in range(seeds)]
            kept = np.mean([m.speed() for m in found])
            share = np.mean([len(m.drafted) / rounds for m in found])
            offs = np.mean([sum(state == "off" for _, state in m.switches) for m in found])
            print(f"| {speed} | {noise} | {kept:.3f} | {share:.0%} | {offs:.1f} |", flush=True)


def ten_percent(seeds: int, rounds: int) -> None:
    """Print in how many runs a drafter that gains 10 % is switched off."""
    for tokens in (1.2, 1.5, None):
        make = steady(1.1, tokens is None, tokens or 0.0)
        found = [Machine(make, seed=s).run(rounds, off) for s in range(seeds)]
        name = f"always {tokens} tokens" if tokens else "1 to 5 tokens"
        print(f"10 % faster, {name}: {sum(map(off, found))} of {seeds} runs", flush=True)
    epochs = rounds / (EPOCH + FLANK)
    print(f"a run has {rounds} rounds, at most {epochs:.0f} epochs")


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10_000)
    given = parser.parse_args()
    tables = (promise, delays, gains, ten_percent)
    for name, table in zip(TABLES, tables, strict=True):
        if given.only in (None, name):
            print(f"\n{name}:")
            table(given.seeds, given.rounds)


if __name__ == "__main__":
    main()
