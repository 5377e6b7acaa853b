"""`outrider bench constraints`: engines of grammars on JSON schemas with known instances."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.options.options import option
from outrider.cli.ui import interrupt
from outrider.cli.ui.constraint_tables import show, show_texts
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue

if TYPE_CHECKING:
    from outrider.bench.constraints.cases import Case
    from outrider.bench.constraints.engines import Vocabulary
    from outrider.bench.constraints.run import Told
    from outrider.bench.constraints.texts import TextSettings

_SCHEMAS, _MEASURED, _TEXTS, _OUTPUT = "Schemas", "Measurement", "Texts", "Output"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schemas:
    """Options for what is measured."""

    suite: Annotated[
        Path | None,
        option(
            panel=_SCHEMAS, help="Also a folder with the test suite of JSON Schema, as JSON lines."
        ),
    ] = None
    splits: Annotated[
        str | None, option(panel=_SCHEMAS, help="Only these files of FOLDER, such as BFCL,JME.")
    ] = None
    sample: Annotated[
        int | None, option(panel=_SCHEMAS, help="Number of schemas, drawn at random.", min=1)
    ] = None
    seed: Annotated[int, option(panel=_SCHEMAS, help="Seed of --sample.", min=0)] = 0

    def cases(self, folder: Path) -> "list[Case]":
        """Read the schemas; those of the suite are never sampled."""
        from outrider.bench.constraints.cases import read_cases, sampled

        splits = self.splits.split(",") if self.splits else []
        found = sampled(read_cases(folder, splits), self.sample, self.seed)
        return found + (read_cases(self.suite) if self.suite is not None else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Options for how it is measured."""

    target: Annotated[
        str, option(panel=_MEASURED, help="The model; only its tokenizer, without --texts.")
    ] = "tiny"
    engines: Annotated[
        str, option(panel=_MEASURED, help="Engines, such as llguidance,xgrammar.")
    ] = "llguidance"
    time_limit: Annotated[
        float,
        option(
            panel=_MEASURED,
            help="Seconds of the processor for one schema with its instances; slower ones "
            "are counted.",
            min=0.1,
        ),
    ] = 60.0

    def names(self) -> list[str]:
        """Return the engines. Raises `OptionError` for an unknown one."""
        from outrider.bench.constraints.engines import ENGINES
        from outrider.core.errors import reject_unknown

        names = list(dict.fromkeys(self.engines.split(",")))
        reject_unknown("engine", names, ENGINES)
        return names

    def vocabulary(self) -> "Vocabulary":
        """Read the tokenizer. Raises `OptionError` if there is none."""
        from outrider.bench.constraints.engines import Vocabulary
        from outrider.models.loading import tokenizer_for

        tokenizer = tokenizer_for(_place(self.target))
        if tokenizer is None or tokenizer.eos_id is None:
            raise OptionError(f"{self.target} has no tokenizer", hint="Give another --target")
        size = len(tokenizer.tokenizer)
        return Vocabulary(tokenizer=tokenizer.definition, ends=(tokenizer.eos_id,), size=size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Options for texts of a model."""

    texts: Annotated[
        int | None,
        option(
            panel=_TEXTS,
            help="Write texts for this many schemas, with and without their grammar, in place of "
            "the measurement of engines.",
            min=1,
        ),
    ] = None
    strategies: Annotated[
        str, option(panel=_TEXTS, help="Drafters, such as none,auto,suffix; as in `bench speed`.")
    ] = "none,auto"
    max_new_tokens: Annotated[
        int, option(panel=_TEXTS, help="Limit of a text; longer ones are not finished.", min=1)
    ] = 512
    prompt_tokens: Annotated[
        int, option(panel=_TEXTS, help="Leave out schemas whose prompt is longer.", min=1)
    ] = 1024
    batch: Annotated[int, option(panel=_TEXTS, help="Texts that are written together.", min=1)] = 1
    dtype: Annotated[str, option(panel=_TEXTS, help="Dtype of the weights.")] = "auto"
    threads: Annotated[int | None, option(panel=_TEXTS, help="CPU threads.", min=1)] = None

    def settings(self, target: str, seed: int) -> "TextSettings":
        """Check the options. Raises `OptionError`."""
        from outrider.bench.constraints.texts import TextSettings
        from outrider.bench.settings import Models
        from outrider.bench.strategies import parse_strategies

        return TextSettings(
            models=Models(target=target, dtype=self.dtype, threads=self.threads),
            strategies=parse_strategies(self.strategies),
            count=self.texts or 1,
            max_new_tokens=self.max_new_tokens,
            prompt_tokens=self.prompt_tokens,
            batch=self.batch,
            seed=seed,
        )


def constraints(
    folder: Annotated[
        Path,
        typer.Argument(help="JSONSchemaBench: JSON lines with schema and tests, one file a split."),
    ],
    schemas: Schemas,
    measured: Measurement,
    texts: Texts,
    json: Annotated[
        bool, option("--json", panel=_OUTPUT, help="Print one JSON object, the summary.")
    ] = False,
    out: Annotated[
        Path | None, option(panel=_OUTPUT, help="Write a JSON line for each schema, as it goes.")
    ] = None,
    resume: Annotated[
        bool, option("--resume", panel=_OUTPUT, help="Skip the schemas that --out already has.")
    ] = False,
) -> None:
    """Measure how engines of grammars read JSON schemas.

    Each schema is compiled; then its valid instances must be admitted token by
    token (else it is over-constrained), and its invalid ones refused (else it is
    under-constrained). Instances without a label are judged by jsonschema-rs.
    Masks are timed along valid instances.

    With --texts a model writes JSON for schemas that are accepted, and the texts
    are validated.

    For example:

      outrider bench constraints maskbench --sample 500
      outrider bench constraints maskbench --target smollm2 --out masks.jsonl --resume
      outrider bench constraints maskbench --suite suite --engines llguidance,xgrammar
      outrider bench constraints maskbench --target smollm2 --texts 100 --strategies auto
    """
    _check_out(out, resume)
    screen, keeping = Screen(), Keeping(out, resume)
    if texts.texts is not None:
        settings = texts.settings(measured.target, schemas.seed)
        rows = _texts(schemas.cases(folder), settings, keeping, screen)
        _print({"kind": "constrained texts", "rows": rows}) if json else show_texts(rows, screen)
        return
    rows, refused = _masks(schemas.cases(folder), measured, keeping, screen)
    if json:
        _print({"kind": "constraints", "rows": rows, "refusals": refused})
    else:
        show(rows, refused, screen)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where records are kept, and whether those that are there count."""

    out: Path | None
    resume: bool


def _masks(
    cases: "list[Case]", measured: Measurement, keeping: Keeping, screen: Screen
) -> tuple[list[dict[str, JsonValue]], dict[str, dict[str, int]]]:
    """Measure engines; return the rows of the summary, and why schemas were refused."""
    from outrider.bench.constraints.figures import reasons, summary
    from outrider.bench.constraints.run import measure_all

    names, vocabulary = measured.names(), measured.vocabulary()
    with _progress(screen, keeping.out) as told:
        records = measure_all(
            cases,
            names,
            vocabulary,
            seconds=measured.time_limit,
            out=keeping.out,
            resume=keeping.resume,
            told=told,
        )
    return summary(records), reasons(records)


def _texts(
    cases: "list[Case]", settings: "TextSettings", keeping: Keeping, screen: Screen
) -> list[dict[str, JsonValue]]:
    """Write and validate texts; return the rows of the summary."""
    import tempfile

    from outrider.bench.constraints.figures import text_summary
    from outrider.bench.constraints.texts import write_texts
    from outrider.bench.models import find_tiers, open_models

    with tempfile.TemporaryDirectory() as scaled, _progress(screen, keeping.out) as told:
        opened = open_models(settings.models, find_tiers(settings.models, Path(scaled)))
        records = write_texts(
            cases, opened, settings, out=keeping.out, resume=keeping.resume, told=told
        )
    return text_summary(records)


def _print(found: dict[str, JsonValue]) -> None:
    from outrider.bench.environment import environment

    print_json(environment() | found)


def _place(target: str) -> str | Path:
    """Return the folder of a family's target, or the name itself."""
    from outrider.models.sources.families import families_folder, family, family_names

    return family(target)["target"] if target in family_names(families_folder()) else target


def _check_out(out: Path | None, resume: bool) -> None:
    if out is None:
        if resume:
            raise OptionError("--resume is given without --out", hint="Name the file: --out FILE")
        return
    if not out.absolute().parent.is_dir():
        raise OptionError(f"there is no folder {out.parent}", hint="Create it, or change --out")
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is not a file", hint="Give a file for --out")


@contextmanager
def _progress(screen: Screen, out: Path | None) -> "Iterator[Told]":
    """Context manager: a function that reports progress; an interrupted run says how to go on."""
    from rich.progress import Progress

    hidden = not screen.err.is_terminal
    try:
        with Progress(console=screen.err, transient=True, disable=hidden) as bar:
            task = bar.add_task("schemas", total=None)
            yield lambda engine, done, total: bar.update(
                task, completed=done, total=total, description=engine
            )
    except KeyboardInterrupt:
        more = "--resume continues it" if out else "give --out FILE to continue later"
        screen.note(f"stopped; {more}")
        raise typer.Exit(interrupt.EXIT_CODE) from None
