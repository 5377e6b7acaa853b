"""`outrider bench compare`: two runs beside each other, prompt by prompt."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.bench.comparing.compare import Compared, Comparison
    from outrider.bench.statistics import Ratio

_WHAT, _OUTPUT = "What is compared", "Output"
_MOST_DIFFERENCES = 12


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Raw results of the first run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Those of the second run.")],
    first: Annotated[
        str | None, option(panel=_WHAT, metavar="NAME", help="Only this system of A.")
    ] = None,
    second: Annotated[
        str | None,
        option(panel=_WHAT, metavar="NAME", help="This system of B. Default: that of --first."),
    ] = None,
    json: Annotated[
        bool, option("--json", panel=_OUTPUT, help="Print one JSON object with all figures.")
    ] = False,
) -> None:
    """Compare the raw results of two runs, prompt by prompt.

    A and B are files of `outrider bench --out FILE.jsonl`, or folders of `--out
    FOLDER`. Systems of the same name are compared; --first and --second compare two
    systems, also of one file.

    For example:

      outrider bench compare before.jsonl after.jsonl
      outrider bench compare run.jsonl run.jsonl --first lookup --second auto
    """
    from outrider.bench.comparing.compare import compare_runs
    from outrider.bench.comparing.files import read_results

    if second is not None and first is None:
        raise OptionError("--second is given without --first", hint="Give both, or --first alone")
    pairs = [] if first is None else [(first, second or first)]
    found = compare_runs(read_results(a), read_results(b), pairs)
    if json:
        print_json(_plain(found))
        return
    screen = Screen()
    for pair in dict.fromkeys((row.first, row.second) for row in found.rows):
        own = [row for row in found.rows if (row.first, row.second) == pair]
        title = pair[0] if pair[0] == pair[1] else f"{pair[1]} of B over {pair[0]} of A"
        screen.table(title, [_row(row) for row in own])
    for line in remarks(found):
        screen.note(line)


def _plain(found: "Comparison") -> dict[str, Any]:
    return {
        "prompts": found.prompts,
        "alone": found.alone,
        "changed": found.changed,
        "short": found.short,
        "differences": list(found.differences),
        "rows": [row.to_dict() | {"verdict": row.verdict} for row in found.rows],
    }


def _row(row: "Compared") -> dict[str, str]:
    return {
        "workload": row.workload,
        "prompts": str(row.speed.pairs if row.speed else 0),
        "B over A": _interval(row.speed),
        "after the prompt": _interval(row.decoding),
        "beside undrafted": _interval(row.beside_undrafted),
        "B is": row.verdict,
        "equal texts": f"{row.equal} of {row.texts}",
    }


def _interval(ratio: "Ratio | None") -> str:
    return "-" if ratio is None else f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def remarks(found: "Comparison") -> Iterator[str]:
    """Yield what is needed to understand the figures."""
    yield (
        "B over A: seconds per token of A over those of B, prompt included; above 1, B is faster. "
        "Geometric mean over prompts, medians over repeats, with the 95 % interval of a bootstrap "
        "over prompts. beside undrafted: the same, divided by that of the undrafted texts, so that "
        "it does not depend on how fast the machine was. B is: by the last of them that there is."
    )
    counts = {
        "prompts are in only one of the two runs": found.alone,
        "prompts have the same name and another length": found.changed,
        "prompts with short answers are not timed": found.short,
    }
    for what, count in counts.items():
        if count:
            yield f"{count} {what}."
    for row in found.rows:
        if row.earliest is not None and row.workload in ("all", found.rows[-1].workload):
            yield f"{row.second}: texts differ, at the earliest at token {row.earliest}."
    shown = found.differences[:_MOST_DIFFERENCES]
    yield from (f"differs: {line}" for line in shown)
    if rest := len(found.differences) - len(shown):
        yield f"{rest} more differences; --json lists them."
    if not found.differences:
        yield "versions, device, models and settings are the same, as far as they are stored."
