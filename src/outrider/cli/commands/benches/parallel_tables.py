"""Tables of `outrider bench parallel`."""

from collections.abc import Mapping, Sequence

from outrider.cli.ui.render import Screen
from outrider.core.values import JsonValue

_Row = Mapping[str, JsonValue]


def show(rows: Sequence[_Row], screen: Screen) -> None:
    """Print a table for each task: the methods, and their pairs with one token a round."""
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [_shown(row) for row in rows if row["task"] == task]
        screen.table(f"{task}: means of an item", own, labels=1)


def show_ideal(rows: Sequence[_Row], screen: Screen) -> None:
    """Print how often a model of the exact conditionals succeeds."""
    title = f"A model of the exact conditionals: success of {rows[0]['draws']} draws"
    screen.table(title, [_ideal(row) for row in rows], labels=1)


def _shown(row: _Row) -> dict[str, str]:
    low, high = row["score_interval"] or (0.0, 0.0)
    return {
        "method": str(row["method"]),
        "items": str(row["items"]),
        "score": f"{row['score']:.1%}",
        "change": f"{row['score_change'] or 0.0:+.1%} [{low:+.1%}, {high:+.1%}]",
        "tokens/round": f"{row['tokens_per_round']:.2f}",
        **{name: f"{row[name]:.1f}" for name in ("rounds", "forwards")},
        "row-forwards": f"{row['rows']:.0f}",
        "fewer rounds": _times(row["rounds_ratio"]),
        "ms": f"{1000 * row['seconds']:.0f}",
        "faster": _times(row["seconds_ratio"]),
    }


def _ideal(row: _Row) -> dict[str, str]:
    return {
        "answers": str(row["form"]),
        "n": str(row["n"]),
        "total correlation": f"{row['correlation']:.3f}",
        "closed form": f"{row['expected']:.1%}",
        "one round": f"{row['one_round']:.1%}",
        "standard error": f"{row['error']:.1%}",
        "two rounds": f"{row['two_rounds']:.1%}",
        "one token a round": f"{row['one_token']:.1%}",
    }


def _times(ratio: JsonValue) -> str:
    if ratio is None:
        return ""
    return f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
