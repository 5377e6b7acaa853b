"""`outrider tune`: measures whether drafting pays here, and keeps the answer for `load`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.options.bench_options import MODELS, GivenDraft, GivenQualifier
from outrider.cli.options.groups import given_fields
from outrider.cli.options.numbers import share
from outrider.cli.options.options import Runtime, option
from outrider.cli.ui.progress import measuring
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError, one_line

if TYPE_CHECKING:
    from outrider.strategy import Profile
    from outrider.tuning.settings import TuneSettings

TEXTS, MEASURE, OUTPUT = "Texts", "Measurement", "Output"
_CANNOT_TELL = 3
"""Exit code of a check that does not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedModels:
    """Options that name the models."""

    target: Annotated[
        str, option(panel=MODELS, help="A family, a known model (smollm2), a folder or a hub name.")
    ] = "tiny"
    qualifier: GivenQualifier = None
    draft: GivenDraft = None
    cost_scale: Annotated[
        str | None,
        option(
            panel=MODELS,
            metavar="30M|x4",
            help="Scale the cost of the target to this many parameters, without changing its "
            "outputs. The profile is kept with --out only.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedTexts:
    """Options for the texts that are written."""

    prompts: Annotated[
        list[str] | None,
        option(
            panel=TEXTS,
            metavar="FILE",
            help="Your prompts: JSON lines with prompt, text, messages or turns, as in `outrider "
            "bench`; repeatable. At least 24, better 96. Default: the shipped workloads.",
        ),
    ] = None
    limit: Annotated[int | None, option(panel=TEXTS, help="Most prompts of each class.", min=1)] = (
        None
    )
    max_new_tokens: Annotated[
        int, option(panel=TEXTS, help="Tokens of each text: give the length that you need.", min=1)
    ] = 64
    temperature: Annotated[
        float, option(panel=TEXTS, help="0, the default, chooses the best token.")
    ] = 0.0
    top_p: Annotated[
        float, option(panel=TEXTS, help="Keep the best tokens with this probability mass.")
    ] = 1.0
    seed: Annotated[int, option(panel=TEXTS, help="Seed of every text.")] = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Options for how it is measured."""

    budget: Annotated[
        str,
        option(panel=MEASURE, metavar="TIME", help="Time for the measurement: 90s, 10m, 1h."),
    ] = "10m"
    arms: Annotated[
        list[str] | None,
        option(
            panel=MEASURE,
            metavar="NAME",
            help="A strategy that is compared in any case, as `outrider bench` names it: "
            "swift, draft:k=5; repeatable.",
        ),
    ] = None
    max_changed: Annotated[
        str | None,
        option(
            panel=MEASURE,
            metavar="SHARE",
            help="Compare mode fuzzy too, with at most this share of changed tokens, such as 2%. "
            "Its profile is used only where it is named.",
        ),
    ] = None
    concurrency: Annotated[
        str | None,
        option(
            panel=MEASURE,
            metavar="1,4,16",
            help="Also measure how much to draft with so many requests at once, as a server has "
            "them. It takes 30 % of the budget.",
        ),
    ] = None
    force: Annotated[
        bool,
        option("--force", panel=MEASURE, help="Measure although other programs disturb it."),
    ] = False
    work: Annotated[
        Path | None,
        option(
            panel=MEASURE,
            metavar="DIR",
            help="Keep all texts here. Without it they are kept in the cache until the tuning "
            "has finished; the same command continues an interrupted one.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneOutput:
    """Options for the profile and what is printed."""

    out: Annotated[
        Path | None,
        option(
            panel=OUTPUT,
            metavar="FILE",
            help="Write the profile here. Default: in the cache, where `load` and the other "
            "commands find it.",
        ),
    ] = None
    show: Annotated[
        Path | None,
        option("--show", panel=OUTPUT, metavar="FILE", help="Show a profile; measure nothing."),
    ] = None
    explain: Annotated[
        bool, option("--explain", panel=OUTPUT, help="Also list all arms and what was left out.")
    ] = False
    check: Annotated[
        Path | None,
        option(
            panel=OUTPUT,
            metavar="FILE",
            help="Measure on 10 prompts whether a profile is still true; exit with 1 if not, with "
            "3 if they do not tell.",
        ),
    ] = None
    json: Annotated[
        bool, option("--json", panel=OUTPUT, help="Print one JSON object, the profile.")
    ] = False


def tune(
    models: TunedModels,
    texts: TunedTexts,
    runtime: Runtime,
    measurement: Measurement,
    output: TuneOutput,
) -> None:
    """Measure whether drafting pays here: with which drafter, or not at all.

    All drafters are compared on the first part of the prompts: by replay of
    recorded texts, then the best ones by the clock, side by side. The winner is
    judged on the other part. The answer is kept as a profile, and `load`,
    `generate` and `serve` follow it for these models on this machine.

    For example:

      outrider tune
      outrider tune --target ./big --draft ./small --prompts mine.jsonl --budget 10m
      outrider tune --target smollm2 --prompts question.jsonl --out smollm2.json
      outrider tune --show smollm2.json --explain
      outrider serve --target smollm2 --profile smollm2.json
    """
    screen = Screen()
    if output.show is not None:
        _show(output.show, output, screen)
        return
    settings = _settings(models, texts, runtime, measurement)
    if output.check is not None:
        _check(output.check, settings, screen)
        return
    from outrider.tuning.tune import check_place, keep, run_tuning

    kept = output.out is not None or not models.cost_scale
    if kept:
        check_place(output.out)
    files: list[Path | None] = []
    parts = ", ".join(f"{name} {settings.seconds(name):.0f} s" for name in settings.shares)
    screen.note(f"Plan: {settings.budget:.0f} s: {parts}")
    with measuring(screen) as progress:
        profile = run_tuning(
            settings,
            command=shlex.join(["outrider", *sys.argv[1:]]),
            folder=measurement.work,
            progress=progress,
            note=screen.note,
            store=lambda found: files.append(keep(found, output.out) if kept else None),
        )
    [file] = files
    _print(profile, output, screen)
    if not profile.finished:
        screen.note("stopped; the same command continues the measurement")
    if file is not None:
        screen.note(f"profile: {file}")
    elif kept:
        screen.note("the profile is not kept: there is a finished one, and this one is unfinished")
    else:
        screen.note("the profile is not kept (--cost-scale)")


def _settings(
    models: TunedModels, texts: TunedTexts, runtime: Runtime, measurement: Measurement
) -> "TuneSettings":
    from outrider.bench.settings import Models
    from outrider.tuning.settings import TuneSettings, parse_budget, parse_numbers

    arms = list(measurement.arms or ())
    if measurement.max_changed is not None:
        most = share("max_changed", measurement.max_changed)
        arms.append(f"fuzzy:max_changed={most:g}")
    return TuneSettings(
        models=Models(**(given_fields(models) | given_fields(runtime))),
        workloads=tuple(texts.prompts or ()),
        prompts=texts.limit,
        sampling={
            "max_new_tokens": texts.max_new_tokens,
            "temperature": texts.temperature,
            "top_p": texts.top_p,
            "seed": texts.seed,
        },
        budget=parse_budget(measurement.budget),
        arms=tuple(arms),
        concurrency=parse_numbers(measurement.concurrency or ""),
        force=measurement.force,
    )


def _print(profile: "Profile", output: TuneOutput, screen: Screen) -> None:
    from outrider.tuning import report

    if output.json:
        print_json(profile.to_dict())
        return
    screen.out.print(report.sentence(profile), style="bold", markup=False, soft_wrap=True)
    for line in report.notes(profile):
        screen.line(line)
    if rows := report.table(profile, 1 << 10 if output.explain else 12):
        screen.table("Speedup over plain decoding, with 95 % intervals", rows)
    for line in report.bars(profile):
        screen.line(line)
    if rows := report.together(profile):
        arm = profile.facts["concurrency"]["arm"]
        screen.table(f"Several requests at once, with {one_line(arm)}", rows)
    for line in report.together_bars(profile):
        screen.line(line)
    if output.explain:
        for line in report.skipped(profile):
            screen.line(f"left out: {line}")


def _show(file: Path, output: TuneOutput, screen: Screen) -> None:
    """Print the profile of a file. Raises `OptionError` if its facts are damaged."""
    from outrider.strategy import Profile

    profile = Profile.load(file)
    try:
        _print(profile, output, screen)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise OptionError(
            f"{file} holds facts that cannot be shown", hint="Make one with `outrider tune`"
        ) from None


def _check(file: Path, settings: "TuneSettings", screen: Screen) -> None:
    """Check a profile; exit with 1 if it is no longer true, and with 3 if the few prompts do not
    tell."""
    from outrider.strategy import Profile
    from outrider.tuning.tune import check

    profile = Profile.load(file)
    with measuring(screen) as progress:
        holds, speedup = check(profile, settings, progress)
    found = "nothing was measured" if speedup is None else f"speedup {speedup}"
    answers = {True: "holds", False: "is no longer true", None: "may be true or not: cannot tell"}
    screen.line(f"The profile ({profile.verdict}) {answers[holds]}: {found}")
    if not holds:
        screen.note(f"measure again: {one_line(profile.command)}")
        raise typer.Exit(_CANNOT_TELL if holds is None else 1)
