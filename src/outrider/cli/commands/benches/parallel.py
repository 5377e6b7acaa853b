"""`outrider bench parallel`: tasks with dependent tokens, written by a denoiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.commands.benches.parallel_tables import show, show_ideal
from outrider.cli.options.options import option
from outrider.cli.ui import interrupt
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

if TYPE_CHECKING:
    from outrider.bench.constraints.records import Record
    from outrider.bench.parallel.run import Told

_WORK, _MODEL, _OUTPUT = "Work", "Model", "Output"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Options for what is written."""

    methods: Annotated[
        str,
        option(
            panel=_WORK,
            help="Commit rules beside one token a round, such as threshold(threshold=0.7).",
        ),
    ] = "low-confidence(steps=4),threshold,factor"
    tasks: Annotated[
        str | None, option(panel=_WORK, help="Tasks, such as copy,shuffle. Default: all.")
    ] = None
    items: Annotated[int, option(panel=_WORK, help="Items of each task.", min=1)] = 25
    seed: Annotated[int, option(panel=_WORK, help="Seed of items and draws.", min=0)] = 0
    temperature: Annotated[float, option(panel=_WORK, help="Temperature of draws.", min=0)] = 0.0
    ideal: Annotated[
        bool,
        option(
            "--ideal",
            panel=_WORK,
            help="Measure the closed forms with exact conditionals, without a model.",
        ),
    ] = False

    def names(self) -> list[str]:
        """Return the tasks. Raises `OptionError` for an unknown one."""
        from outrider.core.errors import reject_unknown
        from outrider.diffusion.parallel.catalogue import PARALLEL_TASKS, TASKS

        names = list(PARALLEL_TASKS) if self.tasks is None else self.tasks.split(",")
        reject_unknown("task", names, TASKS)
        return list(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Options of the model."""

    target: Annotated[str, option(panel=_MODEL, help="A denoiser.")] = "tiny-diffusion"
    dtype: Annotated[str, option(panel=_MODEL, help="Dtype of the weights.")] = "auto"
    threads: Annotated[int | None, option(panel=_MODEL, help="CPU threads.", min=1)] = None


def parallel(
    work: Work,
    model: Model,
    json: Annotated[
        bool, option("--json", panel=_OUTPUT, help="Print one JSON object, the summary.")
    ] = False,
    out: Annotated[
        Path | None, option(panel=_OUTPUT, help="Write a JSON line for each answer, as it goes.")
    ] = None,
    resume: Annotated[
        bool, option("--resume", panel=_OUTPUT, help="Skip the answers that --out already has.")
    ] = False,
) -> None:
    """Measure commit rules on tasks whose tokens depend on each other.

    The tasks are those of ParallelBench: lists of names, short texts, puzzles,
    scored by programs. Each method is paired with one token a round, item by item.

    For example:

      outrider bench parallel --ideal
      outrider bench parallel --tasks copy,shuffle --methods threshold,explore
      outrider bench parallel --items 100 --out answers.jsonl --resume
    """
    screen = Screen()
    if work.ideal:
        from outrider.bench.parallel.ideal import ideal_rows

        rows = ideal_rows(seed=work.seed)
        _print({"kind": "closed forms", "rows": rows}) if json else show_ideal(rows, screen)
        return
    if resume and out is None:
        raise OptionError("--resume is given without --out", hint="Name the file: --out FILE")
    from outrider.bench.parallel.figures import summary

    rows = summary(_written(work, model, out, resume, screen))
    _print({"kind": "parallel", "rows": rows}) if json else show(rows, screen)


def _written(
    work: Work, given: Model, out: Path | None, resume: bool, screen: Screen
) -> "list[Record]":
    from outrider.bench.parallel.methods import parse_methods
    from outrider.bench.parallel.run import open_denoiser, write_answers

    names, methods = work.names(), parse_methods(work.methods)
    model, tokenizer = open_denoiser(given.target, dtype=given.dtype, threads=given.threads)
    with _progress(screen, out) as told:
        return write_answers(
            model,
            tokenizer,
            names,
            methods,
            count=work.items,
            seed=work.seed,
            temperature=work.temperature,
            out=out,
            resume=resume,
            told=told,
        )


def _print(found: dict[str, JsonValue]) -> None:
    from outrider.bench.environment import environment

    print_json(environment() | found)


@contextmanager
def _progress(screen: Screen, out: Path | None) -> "Iterator[Told]":
    """Context manager: a function that reports progress; an interrupted run says how to go on."""
    from rich.progress import Progress

    hidden = not screen.err.is_terminal
    try:
        with Progress(console=screen.err, transient=True, disable=hidden) as bar:
            line = bar.add_task("items", total=None)
            yield lambda task, done, total: bar.update(
                line, completed=done, total=total, description=task
            )
    except KeyboardInterrupt:
        more = "--resume continues it" if out else "give --out FILE to continue later"
        screen.note(f"stopped; {more}")
        raise typer.Exit(interrupt.EXIT_CODE) from None
