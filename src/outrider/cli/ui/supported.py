"""Shows which architectures run, through what, and which are refused."""

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

from outrider.cli.ui.render import Screen, print_json

if TYPE_CHECKING:
    from outrider.models.supported import Supported


def show_supported(*, json: bool) -> None:
    """Print what runs; as one JSON object if `json`."""
    from outrider.models.supported import supported

    found = supported()
    if json:
        print_json(asdict(found))
    else:
        _print(found, Screen())


def _print(found: "Supported", screen: Screen) -> None:
    from rich.table import Table

    table = Table(title="Run by Outrider", title_justify="left")
    for column in ("models", "model_type", "in GGUF files"):
        table.add_column(column)
    for one in found.native:
        table.add_row(one.called, one.model_type, ", ".join(one.gguf) or "no")
    screen.out.print(table, markup=False)
    lists = {
        "Text part run by Outrider, image encoder by transformers": found.image_text,
        "Run through transformers (default settings; loading checks a draft tree)": (
            found.transformers
        ),
        "Quantised folders": found.quantised,
        "Weights of GGUF files": found.blocks,
    }
    for title, names in lists.items():
        screen.out.print(f"\n{title}:\n  {', '.join(names)}", markup=False, highlight=False)
    screen.out.print("\nRefused:", markup=False)
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for kind, reason in found.refused.items():
        reasons[reason].append(kind)
    for reason, kinds in sorted(reasons.items()):
        screen.out.print(f"  {reason}:\n    {', '.join(kinds)}", markup=False, highlight=False)
