"""How many times as fast one run is as another: paired by prompt, with a bootstrap interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.bench.comparing.files import Results
from outrider.bench.measure import Run
from outrider.bench.report.summary import ALL, ratios, seconds_per_token
from outrider.bench.settings import changes
from outrider.bench.statistics import Ratio, first_difference
from outrider.bench.strategies import BASELINE
from outrider.core.errors import OptionError, nearest

Pair = tuple[str, str]
"""A system of the first run, and one of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One system of each run, on one workload or on all.

    Attributes:
        workload: its name; `all` for all together.
        first: the system of the first run.
        second: that of the second.
        speed: seconds per token of the first run over those of the second, with the prompt: above 1
            the second is faster.
        decoding: likewise, for the time after the prompt.
        beside_undrafted: `speed` divided by that of the undrafted texts of the two runs, so that it
            does not depend on how fast the machine was; None without undrafted texts.
        texts: pairs of texts.
        equal: pairs of equal texts.
        earliest: the first token at which two texts differ; None if all are equal.
    """

    workload: str
    first: str
    second: str
    speed: Ratio | None
    decoding: Ratio | None
    beside_undrafted: Ratio | None
    texts: int
    equal: int
    earliest: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        ratios = ("speed", "decoding", "beside_undrafted")
        found: dict[str, Any] = {
            name: ratio.to_dict() if (ratio := getattr(self, name)) else None for name in ratios
        }
        names = ("workload", "first", "second", "texts", "equal", "earliest")
        return {name: getattr(self, name) for name in names} | found

    @property
    def verdict(self) -> str:
        """Whether the second run is `faster` or `slower`, or it is `undecided`."""
        ratio = self.beside_undrafted or self.speed
        if ratio is None or ratio.pairs < 2 or ratio.low <= 1.0 <= ratio.high:
            return "undecided"
        return "faster" if ratio.low > 1.0 else "slower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        rows: by system and workload.
        differences: of versions, device, models and settings, one line each.
        prompts: prompts that both runs share.
        alone: prompts of only one of them.
        changed: prompts with the same name and another length.
        short: shared prompts whose answers are too short to measure a speed.
    """

    rows: Sequence[Compared]
    differences: Sequence[str]
    prompts: int
    alone: int
    changed: int
    short: int


def compare_runs(a: Results, b: Results, pairs: Sequence[Pair] = ()) -> Comparison:
    """Compare two runs.

    Args:
        a: the first run.
        b: the second one.
        pairs: which systems are compared; without any, those that both runs have.

    Raises:
        OptionError: the runs share no prompt or no system, or a system is unknown.
    """
    pairs = pairs or [(name, name) for name in a.systems if name in b.systems]
    if not pairs:
        raise OptionError(
            f"{a.place} has the systems {', '.join(a.systems)}, and {b.place} "
            f"{', '.join(b.systems)}",
            hint="Name one of each with --first and --second",
        )
    for first, second in pairs:
        _check_system(a, first)
        _check_system(b, second)
    lengths = [{run.task: run.prompt_tokens for run in one.runs} for one in (a, b)]
    shared = lengths[0].keys() & lengths[1].keys()
    same = {task for task in shared if lengths[0][task] == lengths[1][task]}
    if not same:
        why = "have other lengths in each" if shared else "are not the same"
        raise OptionError(
            f"{a.place} and {b.place} share no prompts: those of their workloads {why}",
            hint="Measure both with the same --workloads and --prompts",
        )
    least = max(a.least_tokens, b.least_tokens)
    short = {run.task for run in (*a.runs, *b.runs) if run.task in same and run.tokens < least}
    rows = [row for pair in pairs for row in _rows(pair, a, b, same, same - short or same)]
    return Comparison(
        rows=rows,
        differences=changes(dict(a.about), dict(b.about)),
        prompts=len(same),
        alone=len(lengths[0].keys() ^ lengths[1].keys()),
        changed=len(shared) - len(same),
        short=len(short) if same - short else 0,
    )


def _check_system(results: Results, name: str) -> None:
    if name not in results.systems:
        raise OptionError(
            f"{results.place} has no system {name!r}", hint=nearest(name, results.systems)
        )


def _rows(
    pair: Pair, a: Results, b: Results, same: set[str], timed: set[str]
) -> Iterator[Compared]:
    """Yield a row for each workload, then one for all if there are several."""
    first, second = (
        [run for run in one.runs if run.system == name and run.task in same]
        for one, name in zip((a, b), pair, strict=True)
    )
    plain = [[run for run in one.runs if run.system == BASELINE] for one in (a, b)]
    drift = ratios(plain[1], plain[0], seconds_per_token)
    workloads = list(dict.fromkeys(run.workload for run in first))
    for workload in [*workloads, ALL] if len(workloads) > 1 else workloads:
        own = [[run for run in runs if workload in (run.workload, ALL)] for runs in (first, second)]
        texts, equal, earliest = _texts(*own)
        before, after = ([run for run in runs if run.task in timed] for runs in own)
        speed = ratios(after, before, seconds_per_token)
        beside = {task: value / drift[task] for task, value in speed.items() if task in drift}
        decoding = ratios(after, before, _decoding)
        yield Compared(
            workload=workload,
            first=pair[0],
            second=pair[1],
            speed=Ratio.of(list(speed.values())),
            decoding=Ratio.of(list(decoding.values())),
            beside_undrafted=None if pair[1] == BASELINE else Ratio.of(list(beside.values())),
            texts=texts,
            equal=equal,
            earliest=earliest,
        )


def _decoding(run: Run) -> float | None:
    """Seconds per token after the prompt; None if two clocks disagree so that none are left."""
    seconds = run.decode_seconds_per_token
    return seconds if seconds is not None and seconds > 0.0 else None


def _texts(first: Sequence[Run], second: Sequence[Run]) -> tuple[int, int, int | None]:
    """Return the number of paired texts, of equal ones, and the earliest difference."""
    known = {(run.task, run.repeat): run.token_ids for run in second}
    found = [
        first_difference(run.token_ids, known[run.task, run.repeat])
        for run in first
        if (run.task, run.repeat) in known
    ]
    places = [place for place in found if place is not None]
    return len(found), len(found) - len(places), min(places, default=None)
