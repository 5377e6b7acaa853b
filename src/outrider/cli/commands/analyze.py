"""`outrider analyze`: answers from files of measurements, without a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json

if TYPE_CHECKING:
    from outrider.analysis.planning import Choice, Plan
    from outrider.analysis.scaling import LogFit

analyze = typer.Typer(
    help="Answer questions from files of measurements.\n\n"
    "For example:\n\n"
    "  outrider analyze scaling measured.json",
    no_args_is_help=True,
)


@analyze.callback()
def _group() -> None:
    """Answer questions from files of measurements."""


@analyze.command()
def scaling(
    file: Annotated[Path, typer.Argument(help="A JSON list of records, or a .csv file of them.")],
    tokens: Annotated[
        list[float] | None,
        option(panel="What is possible", help="Training tokens; default: the measured ones."),
    ] = None,
    layers: Annotated[
        list[int] | None,
        option(panel="What is possible", help="Layers; default: the measured ones."),
    ] = None,
    json: Annotated[bool, option("--json", panel="Output", help="Print one JSON object.")] = False,
) -> None:
    """Plan a draft model: training tokens, layers, and how much it drafts.

    Tokens a round grow with the logarithm of the training tokens, and of the
    layers (Scylla, arXiv 2505.07858). Both are fitted to at least four points;
    the plan is what is fastest with the measured seconds, for each batch.
    Width is the number of drafted tokens of a round, 0 means no drafts.

    Records: {"kind": "data", "tokens": 17000, "tau": 1.6};
    {"kind": "depth", "layers": 2, "tau": 1.7}; {"kind": "width", "width": 3,
    "tau": 1.9}; {"kind": "draft", "layers": 2, "seconds": 0.002};
    {"kind": "verify", "width": 3, "batch": 1, "seconds": 0.02}.

    For example:

      outrider analyze scaling measured.json
      outrider analyze scaling measured.csv --tokens 1000000 --tokens 4000000
    """
    from outrider.analysis.measurements import read_measurements
    from outrider.analysis.planning import plan

    found = plan(read_measurements(file), tokens=tokens or (), layers=layers or ())
    if json:
        print_json(facts(found))
        return
    screen = Screen()
    screen.table("Tokens a round: a + b ln x", [_line(found.by_tokens), _line(found.by_layers)])
    screen.table("The fastest draft of each batch", [_row(choice) for choice in found.choices])
    for warning in found.warnings:
        screen.note(f"warning: {warning}")


def facts(found: "Plan") -> dict[str, Any]:
    """Return a plan as plain data."""
    return {
        "fits": [fit.to_dict() for fit in (found.by_tokens, found.by_layers)],
        "plan": [
            {
                "batch": choice.batch,
                "width": choice.width,
                "layers": choice.layers,
                "tokens": choice.tokens,
                "tau": choice.tau,
                "seconds": choice.seconds,
                "speedup": choice.speedup,
                "why": _why(choice),
            }
            for choice in found.choices
        ],
        "warnings": list(found.warnings),
    }


def _line(fit: "LogFit") -> dict[str, str]:
    return {
        "x": fit.axis,
        "a": f"{fit.intercept:.3f}",
        "b": f"{fit.slope:.3f}",
        "R squared": f"{fit.r_squared:.3f}",
        "measured": f"{fit.points} points, {fit.smallest:g} to {fit.largest:g}",
    }


def _row(choice: "Choice") -> dict[str, str]:
    return {
        "batch": str(choice.batch),
        "width": str(choice.width),
        "layers": "-" if choice.layers is None else str(choice.layers),
        "tokens": "-" if choice.tokens is None else f"{choice.tokens:g}",
        "why": _why(choice),
    }


def _why(choice: "Choice") -> str:
    """Say in one line what the choice gains."""
    if not choice.width:
        return "every draft costs more than it brings"
    return (
        f"{choice.tau:.2f} tokens in {1e3 * choice.seconds:.2f} ms, {choice.speedup:.2f}x undrafted"
    )
