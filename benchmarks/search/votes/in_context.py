"""Self-consistency by answers in context beside votes of samples, on word problems.

    python -m benchmarks.search.votes.in_context smollm2 --questions svamp.jsonl.zst

The questions and solved problems are those of `benchmarks.search.first_finish`. In-context
navigation finds `--runs` solutions, one in each run: the solutions so far are listed after the
prompt, the best of the 100 best tokens that none of them began with begins another, and this is
completed greedily without the list. The ablation takes the best first tokens of the prompt and no
list. Samples at temperature 0.7 begin at the same place; a pool of `--samples` gives the votes of
as many rows and of as many texts. Votes are by the last number. Ties of the best answers are drawn,
but in the row of the strategy as it is, where the first found is taken. `some right` is the share
of questions with a right text. Rows are those that the model computes after the prompt. Intervals
draw questions, and differences are paired. Ctrl-C prints the table of what is done.
"""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
from benchmarks.search.first_finish import mean, sample_of
from benchmarks.search.intervals import difference, shown
from benchmarks.search.votes.pools import DRAWS, Outcome, Sample, vote_of, vote_within
from benchmarks.search.votes.questions import questions
from rich.progress import track

from outrider import load
from outrider.search import Candidate, Search, SearchResult, Task
from outrider.search.plain import plain_tokens
from outrider.search.samples.icn import Icn
from outrider.search.segments import branch_of

OPENING = "Way {number}:\n"


@dataclass(frozen=True, kw_only=True)
class Sampled(Search):
    """Writes samples after the text with which the list begins.

    Attributes:
        form: the list.
        samples: number of samples.
    """

    form: Icn
    samples: int

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return all samples in their order."""
        text = plain_tokens(task.need_codec("this comparison"), self.form.prompt_after([]))
        begin = branch_of(task.cache, text)
        found = task.passages.write(
            [begin] * self.samples, range(self.samples), most=self.form.length
        )
        return [task.candidate(one.tokens, -i, finish=one.finish) for i, one in enumerate(found)]


@dataclass(frozen=True, slots=True)
class Row:
    """A system on a question: its vote, whether a text is right, different answers, and rows."""

    right: float
    some: float
    different: float
    rows: float


def row(samples: Sequence[Sample], outcome: Outcome, rows: float) -> Row:
    """Return the row of these samples."""
    answers = {one.answer for one in samples if one.ended and one.answer is not None}
    return Row(outcome.right, float(any(one.right for one in samples)), len(answers), rows)


def found_by(result: SearchResult, answer: str) -> list[Sample]:
    """Return the texts of in-context navigation in the order in which they were found."""
    order = sorted(result.candidates, key=lambda one: int(str(one.about["place"])))
    return [sample_of(one, answer) for one in order]


def drawn(pool: Sequence[Sample], texts: int, budget: float, seed: int) -> dict[str, Row]:
    """Return the mean rows of the systems that sample."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Row]] = {}
    for _ in range(DRAWS):
        own = [pool[i] for i in rng.permutation(len(pool))]
        equal, few, one = vote_within(own, budget), own[:texts], own[:1]
        same = vote_of(few, earliest=False)
        fit = max(int(np.searchsorted(np.cumsum([s.tokens for s in own]), budget, "right")), 1)
        for name, outcome, used in (
            ("sampling, vote of equal rows", equal, own[:fit]),
            (f"sampling, vote of {texts} texts", same, few),
            ("one sample", vote_of(one), one),
        ):
            found.setdefault(name, []).append(row(used, outcome, outcome.tokens))
    return {name: _mean(rows) for name, rows in found.items()}


def _mean(rows: Sequence[Row]) -> Row:
    cells = np.mean([(r.right, r.some, r.different, r.rows) for r in rows], axis=0)
    return Row(*(float(cell) for cell in cells))


def show(found: dict[str, list[Row]]) -> None:
    """Print the table."""
    print("| | right | vote of icn, less this | some right | different answers | rows |")
    print("|---|---|---|---|--:|--:|")
    base = [one.right for one in found["icn, vote"]]
    for name, rows in found.items():
        right, all_rows = [one.right for one in rows], _mean(rows)
        print(
            f"| {name} | {mean(right)} | {shown(difference(base, right))} "
            f"| {mean([one.some for one in rows])} | {all_rows.different:.2f} "
            f"| {all_rows.rows:.0f} |"
        )


def main() -> None:
    """Answer all questions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--number", type=int, default=141)
    parser.add_argument("--largest", type=int, default=20)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=560.0, help="no question begins later")
    parser.add_argument("--rows", type=Path, help="file for the texts, a line for each question")
    given = parser.parse_args()
    generator = load(given.model, drafter="none", threads=given.threads)
    form = Icn(
        runs=given.runs,
        each=1,
        length=given.max_new_tokens,
        within=100,
        opening=OPENING,
        closing="",
        vote="number",
    )
    arms: dict[str, Search] = {
        "icn": form,
        "no list": Icn(
            runs=1, each=given.runs, length=form.length, opening=OPENING, closing="", vote="number"
        ),
        "samples": Sampled(form=form, samples=given.samples),
    }
    found: dict[str, list[Row]] = {}
    before = OPENING.replace("{number}", "1")
    begun = process_time()
    asked = questions(given.questions, given.number, given.largest)
    with suppress(KeyboardInterrupt):
        for number, question in enumerate(track(asked)):
            if process_time() - begun > given.seconds:
                break
            results = {
                name: generator.search(
                    arm,
                    question.messages(before),
                    max_new_tokens=given.max_new_tokens,
                    temperature=0.7,
                    seed=number,
                )
                for name, arm in arms.items()
            }
            listed, plain = (
                found_by(results[name], question.answer) for name in ("icn", "no list")
            )
            pool = [sample_of(one, question.answer) for one in results["samples"].candidates]
            rows, own = results["icn"].tokens, vote_of(listed, earliest=False)
            best = sample_of(results["icn"].best, question.answer)
            taken = Outcome(float(best.right), rows, 0.0)
            apart = vote_of(plain, earliest=False)
            systems = {
                "icn, vote": row(listed, own, rows),
                "icn, vote as it is": row(listed, taken, rows),
                "no list, vote (ablation)": row(plain, apart, results["no list"].tokens),
                **drawn(pool, given.runs, rows, number),
                "greedy: the first text": row(listed[:1], vote_of(listed[:1]), listed[0].tokens),
            }
            for name, one in systems.items():
                found.setdefault(name, []).append(one)
            if given.rows:
                texts = {
                    name: [one.text for one in result.candidates]
                    for name, result in results.items()
                }
                with given.rows.open("a", encoding="utf-8") as file:
                    file.write(
                        json.dumps({"number": number, "answer": question.answer} | texts) + "\n"
                    )
    print(f"{len(found['icn, vote'])} questions")
    show(found)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
