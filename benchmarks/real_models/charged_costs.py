"""Drafters on recorded answers, with a clock that charges measured costs: no noise of a machine.

    python -m benchmarks.real_models.charged_costs runs/students/answers.jsonl --skip 500

The answers are those of `benchmarks.real_models.students.answers`, to training prompts: lines with
the token ids of `prompt` and `answer`. A round costs what a forward over its rows costs, plus an
overhead, which is doubled for a round with a draft. Printed are tokens per round, and the speed
over undrafted decoding: of all texts together, and the geometric mean over texts.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from outrider.core.counters import Counters
from outrider.core.expression import Expression
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Draft, Prompt, Verdict, as_ids
from outrider.decoding.deferred import Deferred
from outrider.decoding.ledger import count
from outrider.drafters.given import Costs, Given
from outrider.models.tabular import TabularModel
from outrider.policies import CostCurve
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.making import make_drafter, with_priors

# SmolLM2, Q4_1, one thread of a Xeon with VNNI: milliseconds by rows.
MILLISECONDS = {1: 8.5, 2: 10.5, 3: 11.6, 4: 12.3, 6: 13.3, 8: 15.1, 16: 29.0, 32: 59.0}
OVERHEAD = 1.5e-4
DRAFTERS = ("successors", "suffix", "lookup", "sam", "fallback(successors,recycling)")
Answer = tuple[list[int], list[int]]


def answers(path: Path, skip: int, number: int) -> list[Answer]:
    """Return prompts and answers."""
    lines = path.read_text(encoding="utf-8").split("\n")[skip : skip + number]
    return [(one["prompt"], one["answer"]) for one in map(json.loads, filter(None, lines))]


def kept(draft: Draft, answer: Sequence[int], at: int) -> list[int]:
    """Return the nodes of the draft that the answer follows from index `at`."""
    path: list[int] = []
    while at + len(path) < len(answer):
        above, token = (path[-1] if path else -1), answer[at + len(path)]
        same = [
            node
            for node in range(len(draft))
            if draft.parents[node] == above and draft.tokens[node] == token
        ]
        if not same:
            break
        path.append(same[0])
    return path


def play(name: str, texts: Sequence[Answer]) -> tuple[float, float, float]:
    """Return tokens per round, and the speed of all texts and of the mean text."""
    curve = CostCurve.of({rows: ms / 1e3 for rows, ms in MILLISECONDS.items()})
    target = TabularModel.random(vocab_size=2, order=1, seed=0)  # never asked
    given = with_priors(Given(target=target, costs=Costs(curve, OVERHEAD)))
    made = make_drafter(Expression.parse(name, "drafter"), given)
    policy, drafter = given.gain(curve, given.priors_of(made)), Deferred(drafter=made)
    plain = curve.seconds(1) + OVERHEAD
    tokens = rounds = 0
    spent, logs = 0.0, 0.0
    counters = Counters()
    for prompt, answer in texts:
        sampler = Sampler(SamplingParams(seed=0))
        [state] = drafter.begin([Request(Prompt(token_ids=tuple(prompt)), sampler)])
        counters, at, seconds = counters.carried(), 0, 0.0
        while at < len(answer):
            budget = policy.budget(counters).clipped(len(answer) - at - 1)
            draft = EMPTY_DRAFT
            if budget.depth:
                [draft] = drafter.propose([state], [NO_IDS], [budget])
            path = kept(draft, answer, at)
            new = answer[at : at + len(path) + 1]
            count(
                counters,
                draft,
                Verdict(
                    path=tuple(path),
                    tokens=tuple(new[: len(path)]),
                    next_token=new[-1],
                    changed=(False,) * len(path),
                    sources=("draft",) * len(path) + ("target",),
                ),
            )
            forward = curve.seconds(1 + len(draft))
            (counters.checked if len(draft) else counters.plain).note(forward, 1 + len(draft))
            seconds += forward + OVERHEAD * (2 if len(draft) else 1)
            drafter.commit([state], [as_ids(new)])
            at += len(new)
            rounds += 1
        tokens, spent = tokens + len(answer), spent + seconds
        logs += math.log(len(answer) * plain / seconds)
    return tokens / rounds, tokens * plain / spent, math.exp(logs / len(texts))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--drafters", nargs="+", default=list(DRAFTERS))
    given = parser.parse_args()
    texts = answers(given.answers, given.skip, given.count)
    for name in given.drafters:
        found = play(name, texts)
        print("{}: {:.3f} tokens a round, speed {:.3f}, mean text {:.3f}".format(name, *found))


if __name__ == "__main__":
    main()
