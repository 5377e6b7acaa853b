"""A profile in words: one sentence, a table, a picture of bars, and what was left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from outrider.core.errors import one_line
from outrider.strategy.profile import DRAFT, PLAIN, Profile
from outrider.tuning.concurrency.levels import named

_BAR, _SCALE = 40, 2.0
"""Width of a bar in columns, and the speedup that fills it."""


def sentence(profile: Profile) -> str:
    """Return the answer in one sentence."""
    weak = " (weak: fewer than 24 prompts)" if profile.weak else ""
    unfinished = "" if profile.finished else " (unfinished)"
    arm = profile.arm()
    if profile.verdict == DRAFT and arm is not None:
        speed = arm.speedup
        low, high = _number(speed.get("low")), _number(speed.get("high"))
        factor = "no speedup is known"
        if speed.get("mean") is not None:
            factor = f"{speed['mean']:.2f} times as fast as plain decoding [{low}, {high}]"
        return f"Draft with {one_line(arm.name)}: {factor}{weak}{unfinished}."
    if profile.verdict == PLAIN:
        return f"Don't draft: no arm is 3 % faster than plain decoding{weak}{unfinished}."
    kept = "the default `auto` is kept"
    if arm is not None and arm.options:
        kept = "nothing is drafted, since the default `auto` was slower than that"
    return (
        "Undecided: the time was too short, or the gain too small, to tell; "
        f"{kept}{weak}{unfinished}."
    )


def table(profile: Profile, most: int = 12) -> list[dict[str, str]]:
    """Return the best arms as rows of words, those that raced first."""
    rows: Sequence[Mapping[str, Any]] = profile.facts.get("arms", [])
    return [_row(row) for row in rows[:most]]


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    predicted, figures = row["predicted"] or {}, row["figures"] or {}
    tokens = figures.get("written", predicted.get("tokens_per_round"))
    kept = figures.get("acceptance", predicted.get("acceptance"))
    return {
        "arm": row["arm"],
        "predicted": _number(predicted.get("speedup")),
        "raced": _interval(row["raced"]),
        "verdict": _interval(row["verdict"]),
        "tokens/round": _number(tokens),
        "acceptance": _number(kept),
    }


def bars(profile: Profile) -> list[str]:
    """Return a picture: a bar for plain decoding and for each arm that raced; `|` is speedup 1."""
    rows: Sequence[Mapping[str, Any]] = profile.facts.get("arms", [])
    found = [(r["arm"], r["verdict"] or r["raced"]) for r in rows if r["raced"]]
    wide = max((len(name) for name, _ in found), default=0)
    lines = [f"{'none'.ljust(wide)} {_bar(1.0)} 1.00"] if found else []
    return [
        *lines,
        *(f"{n.ljust(wide)} {_bar(s['mean'] or 0.0)} {_interval(s)}" for n, s in found),
    ]


def _bar(speed: float) -> str:
    filled = round(min(speed / _SCALE, 1.0) * _BAR)
    middle = round(_BAR / _SCALE)
    cells = ["█" if i < filled else "·" if i < _BAR else " " for i in range(_BAR)]
    if filled <= middle:
        cells[middle - 1] = "|"
    return "".join(cells)


def together(profile: Profile) -> list[dict[str, str]]:
    """Return one row for each number of requests at once that was measured."""
    return [
        {
            "requests at once": str(level["concurrency"]),
            "drafted tokens, at most": named(level["cap"]),
            "measured with": named(level["judged"]) if level["speedup"] else "-",
            "speedup": _interval(level["speedup"]),
            "blocks": str(level["speedup"]["pairs"]) if level["speedup"] else "-",
        }
        for level in _levels(profile)
    ]


def together_bars(profile: Profile) -> list[str]:
    """Return a picture: the speedup by the number of requests at once, with what is then drafted;
    `|` is speedup 1."""
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    first = profile.arm()
    if (levels := _levels(profile)) and first is not None:
        rows.append(("1", first.speedup or None))
        rows += [
            (str(level["concurrency"]), level["speedup"] if level["cap"] != 0 else None)
            for level in levels
        ]
    wide = max((len(name) for name, _ in rows), default=0)
    return [
        f"{name.rjust(wide)} {_bar(s['mean'] if s else 1.0)} "
        + (_interval(s) if s else "1.00 (no drafts)" if name != "1" else "1.00")
        for name, s in rows
    ]


def _levels(profile: Profile) -> Sequence[Mapping[str, Any]]:
    return (profile.facts.get("concurrency") or {}).get("levels", [])


def notes(profile: Profile) -> list[str]:
    """Return lines about what the measurement depends on."""
    facts, prompts = profile.facts, profile.prompts
    lines = [profile.reason]
    if prompts.get("source"):
        source = prompts["source"]
        where = source if isinstance(source, str) else ", ".join(map(str, source))
        lines.append(
            f"Prompts: {where} ({prompts['search']} choose, {prompts['verdict']} judge; "
            f"{prompts['repeated']:.0%} of the text repeats earlier passages, which makes copies "
            "look better). The answer is about these."
        )
    if facts.get("seconds") is not None:
        load = "" if facts.get("load") is None else f", load {facts['load']:.1f}"
        lines.append(
            f"Measured in {facts['seconds']:.0f} s of {facts['budget']:.0f} s on {facts['cores']} "
            f"cores{load}; times of forwards were moved by at most {facts['pooled']:.0%}."
        )
    slower = [arm.kind for arm in profile.arms if arm.kind != "all"]
    if slower:
        lines.append(f"Without drafts for: {', '.join(slower)}.")
    if (differ := (facts.get("concurrency") or {}).get("differ")) is not None:
        texts = facts["concurrency"]["texts"]
        lines.append(f"Several requests at once: {differ} of {texts} texts differ from plain ones.")
    return lines


def skipped(profile: Profile) -> list[str]:
    """Return the drafters that were left out, with the reasons."""
    return [str(line) for line in profile.facts.get("skipped", [])]


def _interval(speed: Mapping[str, Any] | None) -> str:
    if not speed:
        return "-"
    if speed["pairs"] < 2:
        return f"{speed['mean']:.2f}"
    return f"{speed['mean']:.2f} [{_number(speed['low'])}, {_number(speed['high'])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
