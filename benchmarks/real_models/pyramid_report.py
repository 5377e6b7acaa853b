"""Tables of `pyramid.py`, and what the throughput recursion says about three tiers."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from outrider.bench.statistics import Ratio
from outrider.core import metrics
from outrider.core.metrics import PyramidCosts

COUNTS = ("tokens", "forwards", "drafted", "accepted", "refused", "changed")
DRAFTING = 0
"""Key of the seconds of a token in a draft, beside those of forwards by their rows."""
WINDOWS = range(1, 13)

Line = dict[str, Any]
Seconds = dict[int, float]


def read_lines(path: Path) -> list[Line]:
    """Return all lines written so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report(lines: Sequence[Line]) -> str:
    """Write Markdown: costs, a table for each temperature, and the reasons."""
    costs = least_costs(lines)
    loads = sorted(line["load"] for line in lines)
    parts = [f"load average {loads[0]:.1f} to {loads[-1]:.1f}", told(costs)]
    texts = [line for line in lines if "key" in line]
    for temperature in dict.fromkeys(line["temperature"] for line in texts):
        found = complete([line for line in texts if line["temperature"] == temperature])
        group, count = Group(found, costs), len({line["prompt"] for line in found})
        parts += [f"Temperature {temperature}, {count} prompts:", group.table(), group.bests()]
        parts += ["\n".join(reasons(group.model()))]
    return "\n\n".join(parts)


def complete(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of those prompts that every setting has decoded."""
    settings = {line["setting"]["label"] for line in lines}
    counts = Counter(line["prompt"] for line in lines)
    return [line for line in lines if counts[line["prompt"]] == len(settings)]


def least_costs(lines: Sequence[Line]) -> dict[str, Seconds]:
    """Return the least seconds by tier and rows: other work on the machine only adds to them.

    Where fewer rows took longer, the time of more rows is taken.
    """
    found = [line["costs"] for line in lines if "costs" in line]
    costs: dict[str, Seconds] = {}
    for tier in found[0]:
        own = {int(n): min(one[tier][n] for one in found) for n in found[0][tier]}
        drafting = own.pop(DRAFTING)
        costs[tier] = {n: min(s for more, s in own.items() if more >= n) for n in own}
        costs[tier][DRAFTING] = drafting
    return costs


def told(costs: dict[str, Seconds]) -> str:
    """Write the costs as one line for each tier."""
    rows = []
    for tier, seconds in costs.items():
        forwards = ", ".join(f"{n}: {1e3 * s:.2f}" for n, s in seconds.items() if n != DRAFTING)
        rows.append(f"- {tier}: ms by rows {forwards}; drafted token {1e3 * seconds[DRAFTING]:.2f}")
    return "\n".join(rows)


class Group:
    """The texts of one temperature."""

    def __init__(self, lines: Sequence[Line], costs: dict[str, Seconds]) -> None:
        self._costs = costs
        self._by_label: dict[str, dict[int, Line]] = {}
        for line in lines:
            self._by_label.setdefault(line["setting"]["label"], {})[line["prompt"]] = line
        self._plain = self._by_label["undrafted"]

    def table(self) -> str:
        """Return one row for each setting."""
        head = (
            "| setting | tokens per target forward | acceptance, target | acceptance, qualifier "
            "| changed | texts unlike undrafted | tokens/s | over undrafted | predicted |"
        )
        return "\n".join([head, "|---" * 9 + "|", *map(self._row, self._by_label)])

    def _row(self, label: str) -> str:
        own = self._by_label[label]
        outer = _summed(own, "outer")
        inner = _summed(own, "inner")
        unlike = sum(own[n]["ids"] != self._plain[n]["ids"] for n in own)
        predicted = self._predicted(label)
        cells = [
            label,
            f"{outer['tokens'] / max(outer['forwards'], 1):.2f}",
            _share(outer),
            _share(inner),
            f"{outer['changed'] / outer['tokens']:.1%}",
            f"{unlike} of {len(own)}",
            f"{median(map(_speed, own.values())):.1f}",
            _told(self._over(label, "undrafted")),
            "" if predicted is None else f"{predicted * self._costs['target'][1]:.2f}",
        ]
        return "| " + " | ".join(cells) + " |"

    def _predicted(self, label: str) -> float | None:
        """Return the recursion's tokens per second for the windows and acceptance of a setting."""
        setting = next(iter(self._by_label[label].values()))["setting"]
        tiers, windows = setting["tiers"], setting["windows"]
        if len(tiers) == 1:
            return None
        accept = _chance(_summed(self._by_label[label], "outer"))
        target = self._costs["target"][windows[0] + 1]
        if len(tiers) == 2:
            each = self._costs[tiers[1]][DRAFTING]
            return metrics.predicted_two_tier_speed(each, target, accept, windows[0])
        costs = PyramidCosts(
            draft=self._costs["draft"][DRAFTING],
            qualifier=self._costs["qualifier"][windows[1] + 1],
            target=target,
            accept_qualifier=_chance(_summed(self._by_label[label], "inner")),
            accept_target=accept,
        )
        return metrics.predicted_speed(costs, windows[1], windows[0])

    def bests(self) -> str:
        """Compare the fastest three tiers of each mode with the fastest exact pair."""
        groups: dict[tuple[str, int], list[str]] = {}
        for label, own in self._by_label.items():
            setting = next(iter(own.values()))["setting"]
            groups.setdefault((setting["mode"], len(setting["tiers"])), []).append(label)
        fastest = {key: max(labels, key=self._mean) for key, labels in groups.items()}
        pair = fastest["exact", 2]
        return "\n".join(
            f"- {fastest[key]} over {pair}: {_told(self._over(fastest[key], pair))}"
            for key in fastest
            if fastest[key] != pair
        )

    def model(self) -> "Model":
        """Return the recursion with the acceptance of all exact runs."""
        counts: dict[tuple[str, ...], list[Line]] = {}
        for own in self._by_label.values():
            for line in own.values():
                if line["setting"]["mode"] == "exact":
                    counts.setdefault(tuple(line["setting"]["tiers"]), []).append(line)
        by_tiers = {tiers: dict(enumerate(found)) for tiers, found in counts.items()}
        triple = by_tiers["target", "qualifier", "draft"]
        return Model(
            costs=self._costs,
            draft_by_target=_chance(_summed(by_tiers["target", "draft"], "outer")),
            qualifier_by_target=_chance(_summed(by_tiers["target", "qualifier"], "outer")),
            draft_by_qualifier=_chance(_summed(triple, "inner")),
        )

    def _mean(self, label: str) -> float:
        found = self._over(label, "undrafted")
        return 0.0 if found is None else found.mean

    def _over(self, label: str, base: str) -> Ratio | None:
        own, other = self._by_label[label], self._by_label[base]
        return Ratio.of([_speed(own[n]) / _speed(other[n]) for n in own if n in other])


@dataclass(frozen=True, kw_only=True)
class Model:
    """The recursion's inputs: seconds, and the chance that a tier keeps a token of another."""

    costs: dict[str, Seconds]
    draft_by_target: float
    qualifier_by_target: float
    draft_by_qualifier: float
    qualifier_factor: float = 1.0
    """Multiplies all costs of the qualifier."""
    free_rows: bool = False
    """Whether a forward of several rows takes as long as one of a single row."""

    def pair(self, tier: str) -> tuple[float, int]:
        """Return the tokens per second and the window of the best pair with this drafter."""
        factor = self.qualifier_factor if tier == "qualifier" else 1.0
        accept = self.draft_by_target if tier == "draft" else self.qualifier_by_target
        each = self.costs[tier][DRAFTING] * factor
        return max(
            (metrics.predicted_two_tier_speed(each, self._rows("target", k), accept, k), k)
            for k in WINDOWS
        )

    def triple(self) -> tuple[float, tuple[int, int]]:
        """Return the tokens per second and the windows (LQ, LD) of the best three tiers."""
        found = []
        for high in WINDOWS:
            for low in range(1, high + 1):
                costs = PyramidCosts(
                    draft=self.costs["draft"][DRAFTING],
                    qualifier=self._rows("qualifier", low) * self.qualifier_factor,
                    target=self._rows("target", high),
                    accept_qualifier=self.draft_by_qualifier,
                    accept_target=self.qualifier_by_target,
                )
                found.append((metrics.predicted_speed(costs, low, high), (high, low)))
        return max(found)

    def faster_qualifier(self) -> tuple[float, int]:
        """Return how many times faster the qualifier writes with the draft model, and the
        window."""
        alone = self.costs["qualifier"][DRAFTING] * self.qualifier_factor
        each, accept = self.costs["draft"][DRAFTING], self.draft_by_qualifier
        return max(
            (
                alone
                * metrics.predicted_two_tier_speed(
                    each, self._rows("qualifier", k) * self.qualifier_factor, accept, k
                ),
                k,
            )
            for k in WINDOWS
        )

    @property
    def gain(self) -> float:
        """The best three tiers over the best pair."""
        return self.triple()[0] / max(self.pair(tier)[0] for tier in ("draft", "qualifier"))

    def _rows(self, tier: str, window: int) -> float:
        return self.costs[tier][1 if self.free_rows else window + 1]


def reasons(model: Model) -> list[str]:
    """Say what the recursion predicts, and what would have to change for three tiers to win."""
    one = model.costs["target"][1]
    triple, windows = model.triple()
    pairs = {tier: model.pair(tier) for tier in ("draft", "qualifier")}
    drafted = model.costs["draft"][DRAFTING] / one
    qualified = model.costs["qualifier"][1] / one
    lines = [
        f"- costs target : qualifier : draft = 1 : {qualified:.3f} : {drafted:.3f}; kept: draft by "
        f"target {model.draft_by_target:.3f}, qualifier by target {model.qualifier_by_target:.3f}, "
        f"draft by qualifier {model.draft_by_qualifier:.3f}",
        "- predicted over undrafted: "
        + ", ".join(f"{tier} {speed * one:.2f} (k={k})" for tier, (speed, k) in pairs.items())
        + f", three tiers {triple * one:.2f} {windows}: gain {model.gain:.3f}",
        "- with the draft model the qualifier writes {:.2f} times as fast as alone (k={})".format(
            *model.faster_qualifier()
        ),
        "- with free rows (a forward of n rows costs as much as one): "
        f"gain {replace(model, free_rows=True).gain:.3f}",
        "- with a qualifier that costs nothing in three tiers and in its pair: "
        f"gain {replace(model, qualifier_factor=0.0).gain:.3f}",
    ]
    own, inner = model.qualifier_by_target, model.draft_by_qualifier
    return [
        *lines,
        _needed(
            "the qualifier's cost, relative to what it is",
            lambda x: replace(model, qualifier_factor=x).gain,
            (1.0, 0.0),
        ),
        _needed(
            "the share of the qualifier's tokens that the target keeps",
            lambda x: replace(model, qualifier_by_target=x).gain,
            (own, 0.999),
        ),
        _needed(
            "the share of the draft model's tokens that the qualifier keeps",
            lambda x: replace(model, draft_by_qualifier=x).gain,
            (inner, 0.999),
        ),
    ]


def _needed(what: str, gain: Callable[[float], float], ends: tuple[float, float]) -> str:
    """Find the smallest change of one value, from the first end on, by which three tiers win."""
    first, last = ends
    steps = [first + i / 100 * (last - first) for i in range(101)]
    won = next((x for x in steps if gain(x) > 1), None)
    if won == first:
        return f"- {what}: {first:.3f} is enough"
    if won is None:
        return f"- {what}: no value is enough alone (gain at most {max(map(gain, steps)):.3f})"
    return f"- {what}: {won:.3f} would be needed instead of {first:.3f}"


def _speed(line: Line) -> float:
    return len(line["ids"]) / line["seconds"]


def _summed(lines: dict[int, Line], key: str) -> dict[str, int]:
    found = [line[key] for line in lines.values() if line[key] is not None]
    return {name: sum(one[name] for one in found) for name in COUNTS}


def _chance(counts: dict[str, int]) -> float:
    return metrics.ratio(counts["accepted"], counts["accepted"] + counts["refused"])


def _share(counts: dict[str, int]) -> str:
    return f"{_chance(counts):.3f}" if counts["drafted"] else ""


def _told(found: Ratio | None) -> str:
    return "" if found is None else f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
