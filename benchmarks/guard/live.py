"""What the guard costs and saves on a real model: drafters with and without it, in turn.

A useless drafter proposes four random tokens in every round, under a policy that never leaves it.
`auto` is the default of `outrider.load`. Each has the guard off and on, and undrafted decoding is
the baseline. All write every prompt, one after the other, in rotating order. Seconds of the
processor are recorded beside those of the clock, because other work on the machine disturbs the
latter.

    python -m benchmarks.guard.live smollm2 --prompts 6 --tokens 128 --out runs/guard.jsonl
"""

import argparse
import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import outrider
from outrider.bench.environment import environment
from outrider.bench.measure import Place, Run, StrategySystem
from outrider.bench.run import order_of
from outrider.bench.statistics import Ratio
from outrider.bench.workloads import read_workloads
from outrider.core.counters import Counters
from outrider.core.types import Budget, Draft, IntArray, as_ids
from outrider.drafters import Lookup
from outrider.engine.generator import Generator
from outrider.inputs.prompts.reading import read_prompt
from outrider.protocols import DrafterState
from outrider.strategy import Strategy
from outrider.strategy.description import lower_models

LENGTH = 4


@dataclass(frozen=True, kw_only=True)
class Useless(Lookup):
    """Proposes random tokens."""

    vocab_size: int = 1000
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def propose(
        self,
        states: Sequence[DrafterState],
        tails: Sequence[IntArray],
        budgets: Sequence[Budget],
    ) -> list[Draft]:
        """Return a chain of random tokens for each request."""
        return [self._random(budget.depth) for budget in budgets]

    def _random(self, length: int) -> Draft:
        return Draft(
            tokens=self.rng.integers(0, self.vocab_size, length),
            parents=as_ids(range(-1, length - 1)),
            sources=("useless",) * length,
        )


@dataclass(frozen=True)
class Always:
    """Drafts the same length in every round; it calls itself adaptive, so that a guard may act."""

    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        """Return a chain."""
        return Budget.chain(LENGTH)


def fresh(strategy: Strategy) -> Strategy:
    """Return the strategy with a drafter that remembers no text: drafters of two systems must not
    copy from each other. Models are shared."""
    models = {id(model): model for model in (*lower_models(strategy.drafter), strategy.target)}
    return replace(strategy, drafter=deepcopy(strategy.drafter, models))


def systems(loaded: Generator, sampling: dict[str, Any]) -> list[StrategySystem]:
    """Build the five systems over the models of one generator."""
    target = loaded.strategy.target
    useless = Strategy(
        target=target, drafter=Useless(vocab_size=target.info.vocab_size), policy=Always()
    )
    kinds = {"auto": loaded.strategy, "useless": useless}

    def build(strategy: Strategy, mode: str) -> Generator:
        return Generator(fresh(strategy), defaults=loaded.defaults, guard=mode)

    plain = StrategySystem("none", lambda: build(loaded.strategy.undrafted, "off"), sampling)
    return [plain] + [
        StrategySystem(f"{name}:guard={mode}", lambda s=strategy, m=mode: build(s, m), sampling)
        for name, strategy in kinds.items()
        for mode in ("off", "on")
    ]


def main() -> None:
    """Measure, write the raw results, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workloads", default="stories,qa")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    loaded = outrider.load(given.target, threads=given.threads)
    sampling = {"temperature": 0.0, "max_new_tokens": given.tokens, "ignore_eos": True, "seed": 1}
    tasks = read_workloads(given.workloads.split(","), given.prompts)
    places = [
        Place(t.workload, t.id, read_prompt(t.prompt, loaded.tokenizer).token_ids) for t in tasks
    ]
    all_systems = systems(loaded, sampling)
    for system in all_systems:
        system.write(replace(places[0], repeat=-1))
    runs: list[tuple[Run, float]] = []
    begun = perf_counter()
    for system, place in order_of(all_systems, places, given.repeats):
        before = process_time()
        run = system.write(place)
        runs.append((run, process_time() - before))
        print(f"{perf_counter() - begun:6.0f} s {run.task} {run.system}", flush=True)
    if given.out is not None:
        about = environment() | {"settings": {"least_tokens": 8, **vars(given), "out": ""}}
        lines = [{"kind": "run", **run.to_dict()} for run, _ in runs]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"kind": "summary", **about}])
        given.out.write_text(text, encoding="utf-8")
    report(runs)
    for system in all_systems[1:]:
        guard = system.generator.guard_of(system.generator.strategy)
        if guard is not None:
            print(f"{system.name}: {guard.report}, switches {dict(guard.switches)}")
    print(f"load average: {', '.join(f'{n:.1f}' for n in os.getloadavg())}")


def report(runs: Sequence[tuple[Run, float]]) -> None:
    """Print for each system its speed beside undrafted decoding, by both clocks."""
    keyed = {(run.system, run.task, run.repeat): (run, cpu) for run, cpu in runs}
    heads = ("system", "seconds of the processor", "by the clock", "drafted tokens a round")
    print(f"| {' | '.join(heads)} | equal texts |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(run.system for run, _ in runs):
        own = [(key, pair) for key, pair in keyed.items() if key[0] == name]
        pairs = [(pair, keyed["none", key[1], key[2]]) for key, pair in own]
        cpu = Ratio.of([base[1] / one[1] for one, base in pairs])
        wall = Ratio.of([base[0].seconds / one[0].seconds for one, base in pairs])
        equal = sum(tuple(o[0].token_ids) == tuple(b[0].token_ids) for o, b in pairs)
        drafts = sum(o[0].drafted > 0 and o[0].drafted / max(o[0].rounds, 1) for o, _ in pairs)
        shown = [f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]" if r else "-" for r in (cpu, wall)]
        share = f"{drafts / len(pairs):.2f}"
        print(f"| {name} | {shown[0]} | {shown[1]} | {share} | {equal} of {len(pairs)} |")


if __name__ == "__main__":
    main()
