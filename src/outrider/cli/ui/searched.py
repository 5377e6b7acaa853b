"""Results of a search: `outrider generate --search`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from outrider.cli.ui import interrupt
from outrider.cli.ui.render import Screen, print_json

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.search import Scorer, SearchResult

_CANCELLED = "cancelled"


def run_search(
    generator: "Generator",
    request: Any,
    strategy: str,
    budget: int | None,
    scorer: "Scorer | None",
    settings: Mapping[str, Any],
) -> "SearchResult":
    """Run the search; Ctrl-C ends it, and what was found before is the result."""
    ended: list[bool] = []
    begun: list[bool] = []

    def cancelled() -> bool:
        begun.append(True)
        return bool(ended)

    with interrupt.cancelling(lambda: ended.append(True), lambda: bool(begun)):
        return generator.search(
            strategy,
            request,
            scorer=scorer,
            budget=budget,
            cancelled=cancelled,
            **settings,
        )


def scorer_note(found: "SearchResult", scorer: "Scorer | None") -> str:
    """Return a line that says that a scorer has judged nothing; empty otherwise."""
    if scorer is None or found.scorer_calls or found.stopped:
        return ""
    return f"{found.strategy} asked the scorer {scorer.name} for nothing"


def print_search(
    found: "SearchResult", screen: Screen, number: int, json: bool, notes: Sequence[str]
) -> None:
    """Print the best texts and the figures of the search; or one JSON object.

    Args:
        found: the result.
        screen: where it is printed.
        number: how many texts are printed.
        json: whether to print one JSON object with all of them.
        notes: lines after the figures.

    Raises:
        typer.Exit: after Ctrl-C.
    """
    if json:
        print_json(found.to_dict())
    else:
        shown = found.candidates[:number]
        for place, one in enumerate(shown, start=1):
            if len(shown) > 1:
                screen.write(f"--- {place} of {len(shown)}, score {one.score:.4g} ---\n")
            screen.write(one.text + "\n")
        best = found.best
        calls = f", {found.scorer_calls} texts judged" if found.scorer_calls else ""
        screen.note(
            f"{found.strategy}: score {best.score:.4g}, {len(found.candidates)} "
            f"text{'s' if len(found.candidates) > 1 else ''}, {found.forwards} forwards, "
            f"{found.tokens} tokens computed{calls}, {found.seconds:.2f} s, seed {found.seed}"
        )
        if found.stopped:
            screen.note(f"stopped: {found.stopped}; this is what was found before")
        if best.finish_reason == "length":
            screen.note("the best text is unfinished; raise --max-new-tokens")
        for note in filter(None, notes):
            screen.note(note)
    if _CANCELLED in found.stopped:
        raise typer.Exit(interrupt.EXIT_CODE)
