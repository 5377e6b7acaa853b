"""`outrider bench verify-cost`: measures the cost of a forward over several rows."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.bench_options import Costs, model_options
from outrider.cli.options.options import option
from outrider.cli.ui.bench_tables import cost_row
from outrider.cli.ui.render import Screen, print_json

if TYPE_CHECKING:
    from outrider.bench.settings import Models


def verify_cost(
    costs: Costs,
    model: Annotated[
        str | None, typer.Argument(help="A family (its target), a folder or a hub name.")
    ] = None,
    context: Annotated[
        int, option(panel="What is measured", help="Tokens cached before the rows.", min=0)
    ] = 200,
    repeats: Annotated[
        int, option(panel="What is measured", help="Timed forwards of each width.", min=1)
    ] = 25,
    rivals: Annotated[
        bool,
        option(
            "--rivals",
            panel="What is measured",
            help="Time llama.cpp (q8_0) on the same model as well, in turns.",
        ),
    ] = False,
    json: Annotated[bool, option("--json", panel="Output", help="Print one JSON object.")] = False,
) -> None:
    """Measure forwards over 1 to 32 rows, and the floor.

    verify_cost(n) is the time of n rows divided by the time of one. The floor is the time
    to read every weight once at the memory bandwidth measured in this run.

    For example:

      outrider bench verify-cost tiny
      outrider bench verify-cost tiny --cost-scale 30M --dtype int8 --json
      outrider bench verify-cost tiny --cost-scale 30M --dtype int8 --rivals
    """
    from outrider.bench.config import make_settings

    settings = make_settings(model_options(model, costs) | {"qualifier": "none", "draft": "none"})
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        found = _measure(settings.models, Path(scratch), context, repeats, rivals)
    if json:
        print_json(found)
        return
    screen = Screen()
    screen.table(f"One forward over n rows, after {context} tokens", [cost_row(found)])
    if rivals:
        screen.table("llama.cpp, q8_0", [_rival_row(found)])
    if found["cost_scale"]:
        screen.note(f"Every figure above: {found['cost_scale']}.")
    screen.note(f"memory bandwidth {found['bandwidth_gb_s']:.1f} GB/s, {found['threads']} threads")


def _rival_row(found: dict[str, Any]) -> dict[str, str]:
    """Return the rival's milliseconds, and our times divided by its time of one row."""
    theirs, over = found["rivals"]["llama.cpp-q8_0"], found["over_llama_cpp"]
    rows = {f"{n}, ms": f"{ms:.3f}" for n, ms in theirs.items()}
    return rows | {f"our {n} / its 1": f"{over[n]:.2f}x" for n in ("1", "8", "16")}


def _measure(
    models: "Models", scratch: Path, context: int, repeats: int, rivals: bool
) -> dict[str, Any]:
    from outrider.bench.models import find_tiers, open_models
    from outrider.bench.verify import beside_llama_cpp, tier_costs

    opened = open_models(models, find_tiers(models, scratch, on_disk=True if rivals else None))
    if rivals:
        return beside_llama_cpp(opened, context=context, repeats=repeats)
    return tier_costs(opened, context=context, repeats=repeats, limit=15.0)["target"]
