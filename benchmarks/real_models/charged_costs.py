"""Drafters on recorded answers, with a clock that charges measured costs: no noise of a machine.

    python -m benchmarks.real_models.charged_costs runs/students/answers.jsonl --skip 500
    python -m benchmarks.real_models.charged_costs runs/recorded.jsonl --choice 0.4 --wrong 1.45

The answers are those of `benchmarks.real_models.students.answers`, to training prompts, or of
`benchmarks.real_models.recorded`, to Spec-Bench: lines with the token ids of `prompt` and `answer`.
A drafted token is kept where it equals the recorded one. A round costs what a forward over its rows
costs, plus an overhead, which is doubled for a round with a draft, plus `asking` for a drafter that
is asked, plus a choice for each token. Printed are tokens per round; the speed over undrafted
decoding, of all texts together and the geometric mean over texts with its interval; that of the
even and of the odd turns through the categories, to choose on one half and judge on the other; and
that of each category. No row is computed, so drafters that learn from rows are refused.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.long_inputs.intervals import bootstrap

from outrider.core.counters import Counters
from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.core.types import EMPTY_DRAFT, NO_IDS, Draft, Prompt, Verdict, as_ids
from outrider.decoding.deferred import Deferred
from outrider.decoding.ledger import count
from outrider.drafters.given import Costs, Given
from outrider.models.tabular import TabularModel
from outrider.policies import CostSurface
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.making import make_drafter, with_priors

# SmolLM2, Q4_1, one thread of a Xeon with VNNI: milliseconds by rows.
MILLISECONDS = {1: 5.73, 2: 6.94, 3: 7.37, 4: 7.79, 6: 8.67, 8: 10.69, 16: 22.95, 32: 44.18}
OVERHEAD = 1.3e-4
DRAFTERS = ("successors", "suffix", "lookup", "sam")
TURN = 6
"""Number of categories of Spec-Bench, which come in turn."""


@dataclass(frozen=True, kw_only=True)
class Charges:
    """What is charged, in seconds.

    Attributes:
        curve: by rows, a forward.
        believed: the same as the policy believes it.
        asking: a round in which the drafter is asked.
        choice: the choice of one token.
    """

    curve: CostSurface
    believed: CostSurface
    asking: float
    choice: float

    def seconds(self, rows: int, tokens: int, asked: bool) -> float:
        """Return the time of a round."""
        overhead = OVERHEAD * (2 if rows > 1 else 1) + self.asking * asked
        return self.curve.seconds(rows) + overhead + self.choice * tokens


@dataclass(frozen=True)
class Text:
    """One recorded answer, and how it was written."""

    prompt: list[int]
    answer: list[int]
    category: str = ""
    rounds: int = 0
    seconds: float = 0.0


def texts_of(path: Path, skip: int, number: int) -> list[Text]:
    """Return prompts and answers."""
    lines = path.read_text(encoding="utf-8").split("\n")[skip : skip + number]
    found = map(json.loads, filter(None, lines))
    return [Text(one["prompt"], one["answer"], one.get("category", "")) for one in found]


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


def play(name: str, texts: Sequence[Text], charges: Charges, temperature: float) -> list[Text]:
    """Write all texts with one drafter, in turn; it keeps what it remembers between them.

    Args:
        name: the drafter.
        texts: the recorded answers.
        charges: what a round costs.
        temperature: of the recorded answers; a drafter may read it.

    Raises:
        OptionError: the drafter learns from rows, or its name is unknown.
    """
    target = TabularModel.random(vocab_size=2, order=1, seed=0)  # never asked
    given = with_priors(Given(target=target, costs=Costs(charges.believed, OVERHEAD)))
    made = make_drafter(Expression.parse(name, "drafter"), given)
    if made.learns:
        raise OptionError(
            f"drafter {name!r} learns from rows, which are not computed here",
            hint=f"Give another, such as {', '.join(DRAFTERS)}",
        )
    policy, drafter = given.gain(charges.believed, given.priors_of(made)), Deferred(drafter=made)
    counters, written = Counters(), list[Text]()
    for text in texts:
        answer = text.answer
        sampler = Sampler(SamplingParams(seed=7, temperature=temperature))
        request = Request(Prompt(token_ids=tuple(text.prompt)), sampler)
        [state] = drafter.begin([request])
        counters, at, seconds = counters.carried(), 0, 0.0
        while at < len(answer):
            budget = policy.budget(counters).clipped(len(answer) - at - 1)
            draft = EMPTY_DRAFT
            if budget.depth:
                [draft] = drafter.propose([state], [NO_IDS], [budget])
            path = kept(draft, answer, at)
            new = answer[at : at + len(path) + 1]
            count(counters, draft, _verdict(path, new))
            rows, asked = 1 + len(draft), budget.depth > 0
            measured = charges.curve.seconds(rows) + charges.choice * len(new)
            (counters.checked if len(draft) else counters.plain).note(measured, rows)
            seconds += charges.seconds(rows, len(new), asked)
            request.output += new
            drafter.commit([state], [as_ids(new)])
            at += len(new)
        written.append(Text(text.prompt, answer, text.category, counters.rounds, seconds))
    return written


def _verdict(path: Sequence[int], new: Sequence[int]) -> Verdict:
    return Verdict(
        path=tuple(path),
        tokens=tuple(new[: len(path)]),
        next_token=new[-1],
        changed=(False,) * len(path),
        sources=("draft",) * len(path) + ("target",),
    )


def summary(texts: Sequence[Text], charges: Charges) -> str:
    """Return one line of figures."""
    plain = charges.seconds(1, 1, False)
    tokens, spent = sum(len(t.answer) for t in texts), sum(t.seconds for t in texts)
    logs = [math.log(len(t.answer) * plain / t.seconds) for t in texts]
    mean, low, high = bootstrap(logs, [str(i) for i in range(len(texts))])
    halves = [_mean(logs[i] for i in range(len(logs)) if i // TURN % 2 == half) for half in (0, 1)]
    line = (
        f"{tokens / sum(t.rounds for t in texts):.3f} tokens a round, speed "
        f"{tokens * plain / spent:.3f}, mean text {math.exp(mean):.3f} [{math.exp(low):.3f}, "
        f"{math.exp(high):.3f}], halves {halves[0]:.3f} {halves[1]:.3f}"
    )
    for kind in filter(None, dict.fromkeys(t.category for t in texts)):
        own = [log for log, text in zip(logs, texts, strict=True) if text.category == kind]
        mean, low, high = bootstrap(own, [str(i) for i in range(len(own))])
        line += f"; {kind} {math.exp(mean):.3f} [{math.exp(low):.3f}, {math.exp(high):.3f}]"
    return line


def _mean(logs: Iterable[float]) -> float:
    own = list(logs)
    return math.exp(sum(own) / max(len(own), 1))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--drafters", nargs="+", default=list(DRAFTERS))
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--asking", type=float, default=0.1, help="milliseconds")
    parser.add_argument("--choice", type=float, default=0.15, help="milliseconds of a choice")
    parser.add_argument(
        "--wrong", type=float, default=1.0, help="believed over true costs of more than one row"
    )
    given = parser.parse_args()
    texts = texts_of(given.answers, given.skip, given.count)
    believed = {
        rows: ms / 1e3 * (given.wrong if rows > 1 else 1) for rows, ms in MILLISECONDS.items()
    }
    charges = Charges(
        curve=CostSurface.of({rows: ms / 1e3 for rows, ms in MILLISECONDS.items()}),
        believed=CostSurface.of(believed),
        asking=given.asking / 1e3,
        choice=given.choice / 1e3,
    )
    for name in given.drafters:
        written = play(name, texts, charges, given.temperature)
        print(f"{name}: {summary(written, charges)}", flush=True)


if __name__ == "__main__":
    main()
