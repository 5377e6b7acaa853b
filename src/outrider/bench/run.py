"""Runs a bench: opens all models, interleaves the systems, and times each text."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from outrider.bench.environment import environment
from outrider.bench.identity import Mismatch, compare, float32_texts
from outrider.bench.journal import Journal
from outrider.bench.line_up import LineUp, Progress
from outrider.bench.measure import Place, RivalSystem, Run, StrategySystem, System
from outrider.bench.models import OpenModels, Tier, find_tiers, open_models
from outrider.bench.rivals.rival import Rival
from outrider.bench.settings import Settings, fingerprint
from outrider.bench.strategies import BASELINE
from outrider.bench.verify import tier_costs, used_threads
from outrider.bench.workloads import Task, read_workloads
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.inputs.prompts.reading import read_prompt

Writer = TypeVar("Writer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All data for a report.

    Attributes:
        settings: settings of the run.
        tiers: the models that ran.
        runs: every text, in the order of the plan.
        exactness: the guarantee of each strategy.
        rivals: the rivals that were measured, by name.
        missing: other rivals, with the install command or the reason.
        left_out: number of prompts that do not fit the models, by workload.
        costs: for each tier, the result of `verify_cost`; empty if it was not measured.
        reference: prompt -> the undrafted float32 text, to compare float32 rivals with.
        mismatches: texts that differ from the baseline although equality is guaranteed.
        threads: CPU threads of every system.
    """

    settings: Settings
    tiers: Mapping[str, Tier]
    runs: Sequence[Run]
    exactness: Mapping[str, Exactness]
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    costs: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Sequence[int]] = field(default_factory=dict)
    mismatches: Sequence[Mismatch] = ()
    threads: int = 1


@dataclass(slots=True, kw_only=True)
class Bench:
    """One bench with all of its options.

    Attributes:
        settings: what to measure.
        folder: folder of runs, from which an interrupted bench continues; None stores nothing.
        scratch: folder for cost-scaled checkpoints.
        rivals: the requested rivals by name.
        costs: whether to measure `verify_cost` and the bandwidth too.
    """

    settings: Settings
    folder: Path | None = None
    scratch: Path
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    costs: bool = True

    def run(self, progress: Progress = lambda done, total, what: None) -> Measured:
        """Measure everything that the journal does not hold yet.

        Raises:
            OutriderError: an option is invalid or a model cannot run. Where possible it is raised
                before the first text is written.
        """
        settings = self.settings
        tasks = read_workloads(settings.workloads, settings.prompts)
        missing = {n: why for n, r in self.rivals.items() if (why := r.available()) is not None}
        needs_files = True if len(missing) < len(self.rivals) else None
        tiers = find_tiers(settings.models, self.scratch, on_disk=needs_files)
        journal = Journal(identity_of(settings, tiers, tasks), self.folder)
        progress(0, 1, "loading models")
        opened = open_models(settings.models, tiers)
        places, left_out = places_of(tasks, opened, settings)
        ours = [
            StrategySystem(named.name, partial(opened.build, named), settings.sampling)
            for named in settings.strategies
        ]
        exactness = {s.name: exactness_of(s) for s in ours}
        if "environment" not in journal.facts:
            journal.note("environment", environment())
        if self.costs and "costs" not in journal.facts:
            progress(0, 1, "cost of a forward")
            journal.note("costs", tier_costs(opened))
        usable = {name: rival for name, rival in self.rivals.items() if name not in missing}
        with ExitStack() as stack:
            line_up = LineUp(usable, opened, settings.sampling, missing)
            theirs = line_up.open(stack, progress)
            _write_all([*ours, *theirs], places, journal, line_up, settings.repeats, progress)
        theirs = [s for s in theirs if s.name not in missing]
        order = {s.name: i for i, s in enumerate([*ours, *theirs])}
        runs = sorted(
            (run for run in journal.runs.values() if run.system in order),
            key=lambda run: order[run.system],
        )
        return Measured(
            settings=settings,
            tiers=opened.tiers,
            runs=runs,
            exactness=exactness,
            rivals={s.name: usable[s.name] for s in theirs},
            missing=missing,
            left_out=left_out,
            costs=journal.facts.get("costs", {}),
            reference=self._reference(opened, places, theirs, journal, progress),
            mismatches=compare(runs, exactness, opened, places, settings.sampling),
            threads=used_threads(settings.models.threads),
        )

    def _reference(
        self,
        opened: OpenModels,
        places: Sequence[Place],
        rivals: Sequence[RivalSystem],
        journal: Journal,
        progress: Progress,
    ) -> dict[str, Any]:
        """Return the float32 texts at temperature 0, if a rival of that precision takes part."""
        exact = any(self.rivals[r.name].precision == "float32" for r in rivals)
        if not exact or self.settings.sampling["temperature"] != 0:
            return {}
        if opened.dtype == "float32":
            runs = journal.runs.values()
            return {r.task: r.token_ids for r in runs if r.system == BASELINE}
        if "float32" not in journal.facts:
            progress(0, 1, "float32 texts for comparison")
            journal.note("float32", float32_texts(opened, places, self.settings.sampling))
        return journal.facts["float32"]


def order_of(
    systems: Sequence[Writer], places: Sequence[Place], repeats: int
) -> Iterator[tuple[Writer, Place]]:
    """Yield the order A B A B: every system on a prompt before the next prompt; the first one
    rotates.
    """
    for repeat in range(repeats):
        for number, place in enumerate(places):
            first = (number + repeat) % len(systems)
            now = Place(place.workload, place.task, place.token_ids, repeat)
            for system in [*systems[first:], *systems[:first]]:
                yield system, now


_WARM_UP = -1
"""Number of the repeat whose texts are not timed."""


def _write_all(
    systems: Sequence[System],
    places: Sequence[Place],
    journal: Journal,
    line_up: LineUp,
    repeats: int,
    progress: Progress,
) -> None:
    """Warm up all systems, then write the missing texts."""
    plan = list(order_of(systems, places, repeats))
    todo = [(s, p) for s, p in plan if (s.name, p.task, p.repeat) not in journal.runs]
    done = len(plan) - len(todo)
    for system in {s.name: s for s, _ in todo}.values():
        progress(done, len(plan), f"warming up {system.name}")
        line_up.write(system, replace(places[0], repeat=_WARM_UP))
    for system, place in todo:
        progress(done, len(plan), f"{system.name}, {place.workload}")
        run = line_up.write(system, place)
        if run is not None:
            journal.add(run)
        done += 1
    progress(done, len(plan), "done")


def places_of(
    tasks: Sequence[Task], opened: OpenModels, settings: Settings
) -> tuple[list[Place], dict[str, int]]:
    """Encode prompts, and count for each workload those that do not fit the target's window."""
    room = opened.models["target"].info.context_length - settings.sampling["max_new_tokens"]
    places: list[Place] = []
    left_out: dict[str, int] = {}
    for task in tasks:
        ids = read_prompt(task.prompt, opened.tokenizer).token_ids
        if len(ids) <= room:
            places.append(Place(task.workload, task.id, ids))
        else:
            left_out[task.workload] = left_out.get(task.workload, 0) + 1
    if not places:
        raise OptionError(
            f"no prompt leaves space for {settings.sampling['max_new_tokens']} tokens in the "
            f"target's window of {opened.models['target'].info.context_length}",
            hint="Give a smaller --max-new-tokens or shorter prompts",
        )
    return places, left_out


def exactness_of(system: StrategySystem) -> Exactness:
    """Return the guarantee of a strategy for the texts of the run."""
    generator = system.generator
    return generator.strategy_for(generator.params(**system.sampling)).exactness


def identity_of(
    settings: Settings, tiers: Mapping[str, Tier], tasks: Sequence[Task]
) -> dict[str, Any]:
    """Return the data that must equal those of an earlier run to continue it."""
    return settings.to_dict() | {
        "fingerprints": {name: tier.fingerprint for name, tier in tiers.items()},
        "tasks": fingerprint([[t.id, t.prompt] for t in tasks]),
    }
