"""`outrider.tune`: measures whether drafting pays, and returns the profile."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from outrider.bench.line_up import Progress
from outrider.bench.models import OpenModels
from outrider.bench.settings import Models, fingerprint
from outrider.core.errors import OptionError, one_line, writing
from outrider.kernels.cache import cache_folder
from outrider.strategy.profile import DRAFT, UNDECIDED, Profile
from outrider.tuning.intervals import Speedup
from outrider.tuning.outcome import key_of
from outrider.tuning.run import Tuning
from outrider.tuning.settings import TuneSettings, parse_budget
from outrider.tuning.space import Arm, space_of
from outrider.tuning.verdict import LEAST, Trial

CHECKED = 10
"""Prompts of a check."""


def tune(
    target: str | Path = "tiny",
    *,
    prompts: str | Path | Sequence[str | Path] | None = None,
    qualifier: str | None = None,
    draft: str | None = None,
    dtype: str = "auto",
    cache_dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    budget: float | str = "10m",
    limit: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 1,
    arms: Sequence[str] = (),
    concurrency: Sequence[int] = (),
    force: bool = False,
    save: bool = True,
) -> Profile:
    """Measure whether drafting pays for a model on this machine, and with which drafter.

    Args:
        target: a family, a known model, a folder or a hub name.
        prompts: files of prompts (JSON lines, as in `outrider bench`); None: the shipped ones.
        qualifier: the middle model, as in `load`.
        draft: the draft model, as in `load`.
        dtype: as in `load`.
        cache_dtype: as in `load`.
        device: as in `load`.
        threads: as in `load`.
        budget: seconds, or a time such as `10m`, without loading the models.
        limit: most prompts of each class.
        max_new_tokens: tokens of each text: give the length that you need.
        temperature: as in `generate`.
        seed: as in `generate`.
        arms: strategies that are compared in any case, as `outrider bench` names them.
        concurrency: numbers of requests at once, for which the lengths of drafts are measured too.
        force: measure although other programs disturb it.
        save: write the profile where `load` finds it.

    Raises:
        OutriderError: an option is invalid, a model cannot run, or the machine is too busy.
    """
    given = [prompts] if isinstance(prompts, str | Path) else list(prompts or ())
    settings = TuneSettings(
        models=Models(
            target=str(target),
            qualifier=qualifier,
            draft=draft,
            dtype=dtype,
            cache_dtype=cache_dtype,
            device=device,
            threads=threads,
        ),
        workloads=tuple(str(file) for file in given),
        prompts=limit,
        sampling={"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed},
        budget=parse_budget(budget) if isinstance(budget, str) else budget,
        arms=tuple(arms),
        concurrency=tuple(concurrency),
        force=force,
    )
    if save:
        check_place()
    return run_tuning(settings, store=keep if save else lambda profile: None)


def check_place(out: Path | None = None) -> None:
    """Check before a measurement that its profile can be written.

    Args:
        out: the file; None is the cache.

    Raises:
        OptionError: it cannot be written.
    """
    folder = cache_folder() if out is None else out.absolute().parent
    if out is None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise OptionError(f"there is no folder {out.parent}", hint="Create it, or change --out")
    elif out.is_dir():
        raise OptionError(f"{out} is a folder", hint="Give a file for --out")
    elif out.exists() and not out.is_file():
        raise OptionError(f"{out} is not a plain file", hint="Give a file for --out")
    with writing(folder if out is None else out), tempfile.TemporaryFile(dir=folder):
        pass


def keep(profile: Profile, out: Path | None = None) -> Path | None:
    """Write a profile; one that is finished is not replaced by an unfinished one of the same key.

    Args:
        profile: what was measured.
        out: the file; None is the place where `load` finds it.

    Returns:
        The file; None if a finished profile was kept.

    Raises:
        OptionError: the file cannot be written.
    """
    if not profile.finished:
        with suppress(OptionError):
            old = Profile.load(profile.place if out is None else out)
            if old.finished and not old.differences(profile.key):
                return None
    return profile.save(out)


def run_tuning(
    settings: TuneSettings,
    *,
    command: str = "outrider tune",
    folder: Path | None = None,
    progress: Progress = lambda done, total, what: None,
    note: Callable[[str], None] = lambda line: None,
    store: Callable[[Profile], object] = lambda profile: None,
) -> Profile:
    """Run a tuning, or continue one that was interrupted.

    Args:
        settings: what to tune.
        command: the command that measures again.
        folder: folder of the journal; None: one in the cache, which is removed at the end.
        progress: told `(done, total, step)`.
        note: told the plan, line by line.
        store: keeps the profile; the journal in the cache is removed only after that.
    """
    work = folder or cache_folder() / "tunings" / fingerprint(settings.to_dict())
    with tempfile.TemporaryDirectory(prefix="outrider-tune-") as scratch:
        tuning = Tuning(
            settings=settings,
            command=command,
            folder=work,
            scratch=Path(scratch) if folder is None else folder / "models",
            progress=progress,
            note=note,
        )
        profile = tuning.run()
    store(profile)
    if folder is None and profile.finished:
        with suppress(OSError):
            shutil.rmtree(work)
    return profile


def check(
    profile: Profile,
    settings: TuneSettings,
    progress: Progress = lambda done, total, what: None,
) -> tuple[bool | None, Speedup | None]:
    """Measure on a few prompts whether a profile is still true.

    Returns whether it is, None if the interval does not tell, and the speedup of its arm. `draft`
    is true if the interval lies above 3 %, `don't draft` if it lies below; `undecided` is no longer
    true if it lies above.

    Raises:
        OptionError: the profile names no arm, or is of other models, options or another machine.
    """
    name = _name_of(profile)
    with tempfile.TemporaryDirectory(prefix="outrider-tune-") as scratch:
        tuning = Tuning(
            settings=replace(settings, arms=(name,)), scratch=Path(scratch), progress=progress
        )
        opened, journal, _ = tuning.open()
        if differing := profile.differences(key_of(opened)):
            raise OptionError(
                f"the profile was measured with {'; '.join(differing[:3])}",
                hint="Give the models and options that it was measured with, or measure again: "
                + one_line(profile.command),
            )
        texts = tuning.texts(opened, journal)
        texts.arms[name] = _arm_of(name, opened)
        assert tuning.parts is not None
        places = tuning.parts.verdict[:CHECKED]
        found = Trial(
            winner=name,
            runner_up=None,
            plain=texts.plain.name,
            prompts=[place.workload for place in places],
            write=texts.writer(places),
            looks=(len(places),),
        ).run()
    return _holds(profile.verdict, found.speedup), found.speedup


def _holds(verdict: str, speedup: Speedup | None) -> bool | None:
    """Whether an interval confirms a verdict; None: it does not tell."""
    if speedup is None:
        return None
    if verdict == UNDECIDED:
        return speedup.low <= LEAST
    if speedup.low <= LEAST <= speedup.high:
        return None
    return (speedup.low > LEAST) is (verdict == DRAFT)


def _name_of(profile: Profile) -> str:
    """Return the arm that is checked: that of the verdict, or the best one. Raises `OptionError`
    if none is named."""
    named = profile.arm()
    if profile.verdict == DRAFT and named is not None:
        return named.name
    rows = profile.facts.get("arms")
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict) or not isinstance(row.get("arm"), str):
        raise OptionError("the profile names no arm", hint="Run `outrider tune`")
    return row["arm"]


def _arm_of(name: str, opened: OpenModels) -> Arm:
    """Return the arm of this name. Raises `OptionError` if it cannot be compared."""
    for arm in space_of(opened, [name]).arms:
        if arm.name == name:
            return arm
    raise OptionError(
        f"the arm {name!r:.60} of the profile cannot be measured", hint="Run `outrider tune`"
    )
