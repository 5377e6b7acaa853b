"""`outrider bench`: measures speed on this machine, against a baseline and other systems."""

import difflib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from outrider.cli.commands.benches.compare import compare
from outrider.cli.commands.benches.constraints import constraints
from outrider.cli.commands.benches.parallel import parallel
from outrider.cli.commands.benches.serve import serve
from outrider.cli.commands.verify_cost import verify_cost
from outrider.cli.options.bench_options import (
    Costs,
    Drafts,
    Json,
    Model,
    Out,
    ReportTo,
    Work,
    bench_settings,
    rivals_of,
)
from outrider.cli.options.caching import Caching
from outrider.cli.options.groups import grouped
from outrider.cli.options.guiding import Guiding
from outrider.cli.ui import interrupt
from outrider.cli.ui.bench_tables import show
from outrider.cli.ui.progress import measuring
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.bench.run import Measured

FULL = "run"
"""The command that `outrider bench` runs if none is named."""


class _FullByDefault(TyperGroup):
    """A command group whose first word may be a model instead of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = [*self.commands, "-h", "--help"]
        if not args or (args[0] not in known and not self._misspelt(args[0])):
            args = [FULL, *args]
        return super().parse_args(ctx, args)

    def _misspelt(self, word: str) -> bool:
        """Whether the word resembles a command and is neither an option nor a folder."""
        close = difflib.get_close_matches(word, self.commands, n=1, cutoff=0.7)
        return bool(close) and not word.startswith("-") and not Path(word).exists()


bench = typer.Typer(
    cls=_FullByDefault,
    help="""Measure speed: strategies, workloads and rivals, interleaved in one run.

    Without a command it runs everything: `outrider bench` is `outrider bench run`.

    For example:

      outrider bench
      outrider bench --cost-scale 30M --dtype int8 --rivals --report report
      outrider bench speed --strategies draft:k=4,lookup --workloads copy
      outrider bench verify-cost tiny --cost-scale 30M
      outrider bench compare before.jsonl after.jsonl
    """,
)


@bench.command(FULL)
@grouped
def run(
    costs: Costs,
    drafts: Drafts,
    work: Work,
    guiding: Guiding,
    caching: Caching,
    model: Model = None,
    json: Json = False,
    out: Out = None,
    report: ReportTo = None,
) -> None:
    """Measure strategies on workloads, and what a forward costs.

    All strategies write every text, one after the other, prompt by prompt; an
    undrafted baseline always takes part. A text that should equal the baseline's
    but does not is an error (exit code 1).

    For example:

      outrider bench tiny --prompts 4
      outrider bench --target ./big --draft ./small --dtype int8 --out runs/big
      outrider bench --cost-scale 100M --rivals --report report
      outrider bench smollm2 --guidance 1.5 --strategies auto
      outrider bench smollm2 --kv-policy h2o --kv-budget 25% --strategies auto
      outrider bench --config bench.toml --temperature 0.8 --top-p 0.95
    """
    _bench(
        model, costs, drafts, work, guiding, caching, json=json, out=out, report=report, full=True
    )


@bench.command()
@grouped
def speed(
    costs: Costs,
    drafts: Drafts,
    work: Work,
    guiding: Guiding,
    caching: Caching,
    model: Model = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Measure only strategies on workloads.

    With --json standard output is one object, the summary.

    For example:

      outrider bench speed --strategies draft:k=4,pyramid --workloads stories
      outrider bench speed --strategies auto --workloads qa,copy --json
      outrider bench speed --workloads question.jsonl.zst --prompts 10
    """
    _bench(
        model, costs, drafts, work, guiding, caching, json=json, out=out, report=None, full=False
    )


bench.command("verify-cost")(grouped(verify_cost))
bench.command("serve")(grouped(serve))
bench.command("constraints")(grouped(constraints))
bench.command("parallel")(grouped(parallel))
bench.command("compare")(compare)


def _bench(
    model: str | None,
    costs: Costs,
    drafts: Drafts,
    work: Work,
    guiding: Guiding,
    caching: Caching,
    *,
    json: bool,
    out: Path | None,
    report: Path | None,
    full: bool,
) -> None:
    """Check all options, measure, then print and write the results."""
    settings = bench_settings(model, costs, drafts, work, guiding, caching)
    rivals = rivals_of(settings)
    folder, lines = _places(out)
    if report is not None:
        _check_report(report)
    screen = Screen()
    from outrider.bench.environment import environment
    from outrider.bench.report.summary import summarise
    from outrider.bench.run import Bench

    with _scratch(folder) as scratch, _stoppable(folder, screen):
        job = Bench(settings=settings, folder=folder, scratch=scratch, rivals=rivals, costs=full)
        measured = _measured(job, screen)
    summary = environment() | summarise(measured)
    try:
        if json:
            _print_lines(measured if full else None, summary)
        else:
            show(summary, screen)
    finally:  # also if standard output is closed or full
        if lines is not None:
            from outrider.bench.report.report import write_lines

            write_lines(lines, measured, summary)
    if report is not None:
        from outrider.bench.report.report import write_report

        screen.note(f"report: {write_report(report, summary)}")
    _judge(measured, screen)


def _measured(job: Any, screen: Screen) -> "Measured":
    """Run the measurement with a progress bar on standard error."""
    with measuring(screen) as tell:
        return job.run(tell)


def _print_lines(measured: "Measured | None", summary: dict[str, Any]) -> None:
    for one in measured.runs if measured else ():
        print_json({"kind": "run", **one.to_dict()})
    print_json({"kind": "summary", **summary})


def _judge(measured: "Measured", screen: Screen) -> None:
    """Report every violated guarantee; exit with 1 for those that rounding does not explain."""
    for mismatch in measured.mismatches:
        screen.err.print(f"MISMATCH: {mismatch}", style="bold red", markup=False, soft_wrap=True)
    if any(not m.near_tie for m in measured.mismatches):
        raise typer.Exit(1)


def _places(out: Path | None) -> tuple[Path | None, Path | None]:
    """Return the folder for runs and the file for JSON lines; `--out` is one of the two."""
    if out is None:
        return None, None
    if out.suffix != ".jsonl":
        return out, None
    if not out.absolute().parent.is_dir():
        raise OptionError(f"there is no folder {out.parent}", hint="Create it, or change --out")
    return None, out


def _check_report(folder: Path) -> None:
    """Check before the measurement that the report can be written."""
    from outrider.bench.report.report import require_matplotlib

    require_matplotlib()
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file", hint="Give a folder for --report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder} cannot be created: {error.strerror}") from None


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """Context manager: the folder of cost-scaled checkpoints, next to the runs or temporary."""
    if folder is not None:
        yield folder / "models"
        return
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as place:
        yield Path(place)


@contextmanager
def _stoppable(folder: Path | None, screen: Screen) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            "the same command continues the run" if folder else "give --out DIR to continue later"
        )
        screen.note(f"stopped; {kept}")
        raise typer.Exit(interrupt.EXIT_CODE) from None
