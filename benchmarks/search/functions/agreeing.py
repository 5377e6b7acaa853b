"""The next token of reference solutions under AdaDec and cautious next token prediction, beside
greedy decoding and plain sampling.

    python -m benchmarks.search.functions.agreeing smollm2 --problems mbpp_sanitized.jsonl.zst \
        --rows own.jsonl

Solutions are given (teacher forcing), and each strategy chooses the token at each place. Greedy
decoding and AdaDec choose one token; plain sampling draws from the distribution after temperature
and top-p; `cntp` draws trials from there and takes the first token of the best. Its distribution
is estimated without bias from `--trials` trials: the chance that a trial is the best of as many as
`cntp` makes, drawn out of all of them. The log-probability of a reference token is that under a
mixture of 9 parts of the strategy and 1 part of the model, since the strategies alone give many
reference tokens no probability at all. Intervals draw whole problems.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, log
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.functions.problems import FORMS, encoded, left_out, measured, opened
from benchmarks.search.functions.solving import threshold
from benchmarks.search.intervals import shown
from rich.progress import track

from outrider import load
from outrider.search import Candidate, Search, Task
from outrider.search.steps.ada_dec import mean_logprob
from outrider.search.steps.cntp import Cautious, ending
from outrider.search.steps.lookahead import best_tokens, entropies, look_ahead
from outrider.search.steps.trials import Place, SegmentTrials, Trial

SYSTEMS = ("greedy", "ada-dec", "one sample", "cntp")
_OWN = 0.9
"""Share of the strategy in the mixture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """A place of a solution.

    Attributes:
        entropy: of the model, in nats.
        model: probability of the reference token under the model.
        chances: probability of the reference token under each strategy.
        paused: whether AdaDec looks ahead.
        moved: whether AdaDec chooses another token than greedy decoding.
        trials: trials of `cntp`.
    """

    entropy: float
    model: float
    chances: dict[str, float]
    paused: bool
    moved: bool
    trials: int


def chance_of_best(trials: Sequence[Trial], count: int, token: int) -> float:
    """Return the chance that the best of `count` trials begins with a token, if they are drawn out
    of these trials without putting them back. Of equal trials, the first is the best."""
    ordered = sorted(trials, key=lambda trial: trial.perplexity)
    ways = [comb(len(ordered) - 1 - rank, count - 1) for rank in range(len(ordered))]
    right = [way for way, trial in zip(ways, ordered, strict=True) if trial.tokens[0] == token]
    return sum(right) / comb(len(ordered), count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed(Search):
    """Reads a given solution, and lets each strategy choose at each place.

    Attributes:
        solution: its tokens.
        theta: threshold of AdaDec.
        trials: trials of which the distribution of `cntp` is estimated.
    """

    solution: Sequence[int]
    theta: float
    trials: int

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return one result with the places as `found` in its `about`."""
        tree, cautious = task.tree(), Cautious()
        ends = ending(task.need_codec("this"), cautious.punctuation)
        writer = SegmentTrials(task, tree, ends)
        node, logits = tree.root, tree.first()
        found: list[At] = []
        for i, token in enumerate(self.solution):
            text = self.solution[:i]
            place = Place.of(task, node, logits, text)
            ahead = self._ahead(task, writer, place)
            count = cautious.number(place.entropy)
            sampled = place.warped(token) if token in place.support.ids.tolist() else -torch.inf
            one = float(torch.tensor(sampled).exp())
            cautiously = one
            if count > 1:
                trials = writer.write(place, text, self.trials, cautious.span)
                cautiously = chance_of_best(trials, count, token)
            best = int(place.logprobs.argmax())
            found.append(
                At(
                    entropy=entropies(place.logprobs[None])[0],
                    model=float(place.logprobs[token].exp()),
                    chances={
                        "greedy": float(best == token),
                        "ada-dec": float((best if ahead is None else ahead) == token),
                        "one sample": one,
                        "cntp": cautiously,
                    },
                    paused=ahead is not None,
                    moved=ahead is not None and ahead != best,
                    trials=count,
                )
            )
            [node], [logits] = tree.extend([(node, token)])
            tree.keep([node])
        return [task.candidate(self.solution, 0.0, found=[asdict(one) for one in found])]

    def _ahead(self, task: Task, writer: SegmentTrials, place: Place) -> int | None:
        """Return the choice of AdaDec; None where it does not look ahead."""
        if entropies(place.logprobs[None])[0] < self.theta:
            return None
        steps = [(place.node, one) for one in best_tokens(place.logprobs, 3)]
        ahead = look_ahead(task, writer.tree, steps, 5)
        best = max(ahead, key=lambda one: mean_logprob(one, float(place.logprobs[one.tokens[0]])))
        return best.tokens[0]


def mixed(place: dict[str, Any], name: str) -> float:
    """Return the log-probability of the reference token under the mixture."""
    return log(_OWN * place["chances"][name] + (1 - _OWN) * place["model"] + 1e-12)


def table(solutions: Sequence[Sequence[dict[str, Any]]], title: str, which: str) -> None:
    """Print the figures of the places at which the field `which` is true; empty: of all."""
    kept = [
        (str(number), place)
        for number, own in enumerate(solutions)
        for place in own
        if not which or place[which] is True or (which == "trials" and place[which] > 1)
    ]
    groups = [group for group, _ in kept]
    total = sum(map(len, solutions))
    print(f"\n{title}: {len(kept)} of {total} places of {len(solutions)} solutions\n")
    if not kept:
        return
    mean = sum(log(place["model"] + 1e-12) for _, place in kept) / len(kept)
    print(f"mean log-probability of the reference token under the model: {mean:.2f}\n")
    print(
        "| | chance of the reference token | minus greedy | minus one sample | mixture, log p |"
        " minus greedy | minus one sample |\n|---|--:|---|---|--:|---|---|"
    )
    for name in SYSTEMS:
        cells: list[str] = []
        for of in (lambda p, n: float(p["chances"][n]), mixed):
            own = [of(place, name) for _, place in kept]
            cells.append(f"{sum(own) / len(own):.3f}")
            for other in ("greedy", "one sample"):
                more = [of(place, name) - of(place, other) for _, place in kept]
                cells.append(shown(bootstrap(more, groups)) if other != name else "")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Follow all solutions and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--form", choices=FORMS, default="solved")
    parser.add_argument("--temperature", type=float, default=1.2)
    parser.add_argument("--trials", type=int, default=20, help="at least 10")
    parser.add_argument("--seconds", type=float, default=540, help="begins no problem after them")
    given = parser.parse_args()
    begun = perf_counter()
    generator = load(given.model, drafter="none", threads=1)
    problems = opened(given.problems)
    rows: dict[str, list[dict[str, Any]]] = {}
    if given.rows.exists():
        rows = dict(map(json.loads, given.rows.read_text().splitlines()))
    theta = threshold(generator, left_out(problems), given.form)
    for seed, problem in enumerate(track(measured(problems)[: given.count])):
        if perf_counter() - begun > given.seconds:
            break
        if problem.name in rows:
            continue
        prompt, solution = encoded(generator, problem, given.form)
        found = generator.search(
            Followed(solution=solution, theta=theta, trials=given.trials),
            prompt,
            max_new_tokens=len(solution) + 64,
            stop_token_ids=(solution[-1],),
            temperature=given.temperature,
            top_p=0.9,
            seed=seed,
        )
        rows[problem.name] = found.best.about["found"]  # pyright: ignore[reportArgumentType]
        with given.rows.open("a") as file:
            file.write(json.dumps((problem.name, rows[problem.name])) + "\n")
    own = list(rows.values())
    table(own, "all", "")
    table(own, "where AdaDec looks ahead", "paused")
    table(own, "where AdaDec chooses another token than greedy decoding", "moved")
    table(own, "where cntp makes several trials", "trials")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
