"""A tuning from the first forward to the profile."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from outrider.bench.journal import Journal
from outrider.bench.line_up import Progress
from outrider.bench.models import OpenModels, Tier, find_tiers, open_models
from outrider.bench.run import identity_of, places_of
from outrider.bench.workloads import Task, read_workloads
from outrider.core.errors import OptionError, OutriderError
from outrider.models.replay import Recording, with_rows
from outrider.strategy.profile import Profile
from outrider.tuning.concurrency.together import Together, used_arm
from outrider.tuning.facts import Facts, Measure, measure_facts
from outrider.tuning.outcome import Outcome
from outrider.tuning.prompts import Parts, split
from outrider.tuning.race import Entry, Race
from outrider.tuning.replay_run import MOST, Prediction, kept, screen
from outrider.tuning.settings import TuneSettings
from outrider.tuning.space import AUTO, Arm, Screening, Skipped, adaptive_of, plain_arm, space_of
from outrider.tuning.texts import RECORDED, Texts
from outrider.tuning.verdict import Trial, Verdict

_LEAST_RECORDED = 2
_LEAST_REPLAYED = 4
_TEXTS_EACH = 8
"""Texts of a race for which an arm is worth taking along."""
_ADAPTIVE = 2
"""Families of which the arm with adaptive lengths races as well."""


@dataclass(slots=True, kw_only=True)
class Tuning:
    """One tuning. `run` measures everything; the fields hold what is known so far.

    Attributes:
        settings: what to tune.
        command: the command that measures again, for the profile.
        folder: folder of the journal, from which an interrupted tuning continues; None stores
            nothing.
        scratch: folder for cost-scaled checkpoints.
        progress: told `(done, total, step)`.
        note: told the plan, line by line.
        clock: seconds.
        measure: measures forwards; None times them.
    """

    settings: TuneSettings
    command: str = "outrider tune"
    folder: Path | None = None
    scratch: Path
    progress: Progress = lambda done, total, what: None
    note: Callable[[str], None] = lambda line: None
    clock: Callable[[], float] = perf_counter
    measure: Measure | None = None
    facts: Facts | None = None
    parts: Parts | None = None
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    recordings: list[Recording] = field(default_factory=list[Recording])
    predictions: dict[str, Prediction] = field(default_factory=dict[str, Prediction])
    entries: list[Entry] = field(default_factory=list[Entry])
    verdict: Verdict | None = None
    together: Together | None = None
    _arms: dict[str, Arm] = field(default_factory=dict[str, Arm])
    _replayed: list[Recording] = field(default_factory=list[Recording])
    _begun: float = 0.0
    _each: float = 0.0
    _race_until: float = 0.0

    def run(self) -> Profile:
        """Measure, and return the profile; after Ctrl-C that of what was measured, unfinished.

        Raises:
            OutriderError: an option is invalid or a model cannot run.
            KeyboardInterrupt: before the race had compared anything.
        """
        opened, journal, left_out = self.open()
        if "profile" in journal.facts and journal.facts.get("levels", []) == self.settings.levels:
            self.note("measured before: nothing is measured again")
            return Profile.from_dict(journal.facts["profile"], str(self.folder))
        self._begun = self.clock() - journal.facts.get("spent", 0.0)
        finished = False
        try:
            self._stages(opened, journal)
            finished = True
        except KeyboardInterrupt:
            if not any(entry.logs for entry in self.entries):
                raise
        finally:
            journal.note("spent", self.clock() - self._begun)
        assert self.parts is not None and self.facts is not None
        profile = Outcome(
            settings=self.settings,
            command=self.command,
            opened=opened,
            journal=journal,
            parts=self.parts,
            facts=self.facts,
            predictions=self.predictions,
            entries=self.entries,
            verdict=self.verdict,
            arms=self._arms,
            skipped=self.skipped,
            together=self.together,
            seconds=self.clock() - self._begun,
            left_out=left_out,
            finished=finished,
        ).profile()
        if finished:
            journal.note("profile", profile.to_dict())
            journal.note("levels", self.settings.levels)
        return profile

    def open(self) -> tuple[OpenModels, Journal, int]:
        """Read the prompts and load the models; return them with the journal and the number of
        prompts that do not fit the window. Raises `OutriderError`."""
        bench = self.settings.bench
        tasks = read_workloads(bench.workloads, self.settings.prompts)
        tiers = find_tiers(bench.models, self.scratch)
        journal = Journal(self._identity(tiers, tasks), self.folder)
        self.progress(0, 1, "loading models")
        opened = open_models(bench.models, tiers)
        places, left_out = places_of(tasks, opened, bench)
        self.parts = split(places)
        return opened, journal, sum(left_out.values())

    def _identity(self, tiers: dict[str, Tier], tasks: Sequence[Task]) -> dict[str, Any]:
        own = identity_of(self.settings.bench, tiers, tasks)
        return own | {"arms": list(self.settings.arms)}

    def _stages(self, opened: OpenModels, journal: Journal) -> None:
        """Run all stages in order."""
        parts = self.parts
        assert parts is not None
        texts = self.texts(opened, journal)
        self.note(
            f"{len(parts.search)} prompts choose, {len(parts.verdict)} judge"
            + ("; with fewer than 24 the verdict is weak" if parts.weak else "")
        )
        self._measure_facts(opened, journal)
        self._record(texts, parts, journal)
        arms = self._screen(opened, journal)
        texts.arms |= {arm.name: arm for arm in arms}
        self._arms = texts.arms
        names = ", ".join(arm.name for arm in arms)
        self.note(f"{len(self.predictions)} arms replayed; the race: none, {names}")
        self._race(texts, parts, arms, journal)
        self._judge(texts, parts)
        self._serve(opened, parts, journal)

    def texts(self, opened: OpenModels, journal: Journal) -> Texts:
        """Return what writes texts; it knows plain decoding."""
        plain = plain_arm()
        return Texts(
            opened=opened,
            sampling=self.settings.bench.sampling,
            journal=journal,
            plain=plain,
            arms={plain.name: plain},
            told=self._tell,
        )

    # -- stages ---------------------------------------------------------------------------------

    def _measure_facts(self, opened: OpenModels, journal: Journal) -> None:
        known = journal.facts.get("facts")
        if known is None or self._refuses(Facts.from_dict(known)):
            self._tell("cost of a forward")
            limit = self.settings.seconds("facts") / 2
            facts = measure_facts(opened.models["target"], limit, self.measure)
            if self._refuses(facts):  # not noted: the next run measures again
                raise OptionError(
                    f"other programs disturb the measurement: a time moves by {facts.pooled:.0%}"
                    + (f" (load {facts.load:.1f})" if facts.load is not None else ""),
                    hint="Stop them, or give --force",
                )
            journal.note("facts", facts.to_dict())
        self.facts = Facts.from_dict(journal.facts["facts"])

    def _refuses(self, facts: Facts) -> bool:
        """Whether the machine is too busy for a tuning that is not forced."""
        return facts.busy and not self.settings.force

    def _record(self, texts: Texts, parts: Parts, journal: Journal) -> None:
        """Write plain texts of the search prompts: the record of the replay."""
        until = self.clock() + self.settings.seconds("record")
        spent: list[float] = []
        for number, place in enumerate(parts.search):
            known = journal.facts.get("recorded")
            late = self.clock() > until if known is None else number >= known
            if number >= _LEAST_RECORDED and late:
                break
            run = texts.write(texts.plain.name, replace(place, repeat=RECORDED))
            spent.append(run.seconds)
            recording = Recording(place.token_ids, tuple(int(t) for t in run.token_ids))
            self.recordings.append(with_rows(texts.opened.models["target"], recording))
        self._each = median(spent)
        journal.note("recorded", len(self.recordings))

    def _screen(self, opened: OpenModels, journal: Journal) -> list[Arm]:
        """Replay the texts with every arm; return those that race."""
        self._tell("screening")
        self._replayed = list(self.recordings)
        space = space_of(opened, self.settings.arms)
        self.skipped += space.skipped
        begun = self.clock()
        todo = _mixed([arm for arm in space.arms if arm.screening is not Screening.NONE])
        known: dict[str, Any] = journal.facts.get("predictions", {})
        late = 0
        for number, arm in enumerate(todo):
            self.progress(number, len(todo), f"replaying {arm.name}")
            left = self.settings.seconds("replay") - (self.clock() - begun)
            if arm.name in known:
                self.predictions[arm.name] = Prediction(**known[arm.name])
            elif left > 0:
                begun_one = self.clock()
                self._predict(arm, opened)
                self._fit(self.clock() - begun_one, left / max(len(todo) - number, 1))
            else:
                late += 1
        if late:
            self.skipped.append(Skipped(name=f"{late} arms", reason="no time to replay them"))
        found = {name: own.to_dict() for name, own in self.predictions.items()}
        journal.note("predictions", found)
        if "race" in journal.facts:
            return _named(space.arms, [own["name"] for own in journal.facts["race"]])
        return self._chosen(space.arms)

    def _predict(self, arm: Arm, opened: OpenModels) -> None:
        assert self.facts is not None
        sampling = self.settings.bench.sampling
        try:
            found = screen(arm, opened, self._replayed, self.facts, sampling)
        except OutriderError as error:
            self.skipped.append(Skipped(name=arm.name, reason=error.problem, hint=error.hint))
        else:
            self.predictions[arm.name] = found

    def _fit(self, spent: float, share: float) -> None:
        """Replay fewer texts from now on, if an arm takes more than its share of the time."""
        if spent > share:
            fewer = int(len(self._replayed) * share / spent)
            self._replayed = self._replayed[: max(fewer, _LEAST_REPLAYED)]

    def _chosen(self, arms: Sequence[Arm]) -> list[Arm]:
        """Return the arms of the race: as many as its texts can tell apart, the automatic choice
        and those that the user names in any case."""
        most = min(max(self._texts_left // _TEXTS_EACH, 3), MOST + _ADAPTIVE)
        ranked = kept([arm for arm in arms if arm.name in self.predictions], self.predictions, MOST)
        firsts = {arm.family: arm for arm in reversed(ranked)}
        adaptive = [adaptive_of(arm) for arm in [*firsts.values()][::-1][:_ADAPTIVE]]
        live = [arm for arm in arms if arm.screening is Screening.NONE]
        named = [arm for arm in live if arm.family == AUTO or arm.name in self.settings.arms]
        heads = [arm for arm in live if arm not in named]
        first = [arm for pair in zip_longest(heads[:1], ranked) for arm in pair if arm is not None]
        order = {arm.name: arm for arm in (*named, *first[:most], *heads, *adaptive)}
        return [*order.values()][: max(most, len(named) + 1)]

    @property
    def _texts_left(self) -> int:
        """Texts that can be written until the race ends."""
        settings = self.settings
        self._race_until = self._begun + settings.budget - settings.seconds("verdict")
        self._race_until = max(self._race_until, self.clock() + settings.seconds("race") / 2)
        return int((self._race_until - self.clock()) / max(self._each, 1e-6))

    def _race(self, texts: Texts, parts: Parts, arms: Sequence[Arm], journal: Journal) -> None:
        known: list[dict[str, Any]] | None = journal.facts.get("race")
        if known is not None:  # a race that has ended is not run again
            self.entries = [Entry(**own) for own in known]
            return
        self.entries = [Entry(name=arm.name, learns=arm.adaptive) for arm in arms]
        race = Race(
            arms=self.entries,
            plain=texts.plain.name,
            prompts=len(parts.search),
            write=texts.writer(parts.search),
            texts=self._texts_left,
            ended=lambda: self.clock() > self._race_until,
        )
        self.entries = race.run()
        journal.note("race", [asdict(entry) for entry in self.entries])

    def _judge(self, texts: Texts, parts: Parts) -> None:
        ranked = [texts.arms[entry.name] for entry in self.entries]
        winner = ranked[0]
        simpler = [arm for arm in ranked[1:] if arm.models < winner.models]
        runner_up = next(iter([*simpler, *ranked[1:]]), None)
        least = self.clock() + self.settings.seconds("verdict") / 2  # if other stages took longer
        until = max(self._begun + self.settings.budget, least)
        self.verdict = Trial(
            winner=winner.name,
            runner_up=None if runner_up is None else runner_up.name,
            plain=texts.plain.name,
            prompts=[place.workload for place in parts.verdict],
            write=texts.writer(parts.verdict),
            simpler=bool(simpler),
            ended=lambda: self.clock() > until,
        ).run()

    def _serve(self, opened: OpenModels, parts: Parts, journal: Journal) -> None:
        """Measure several requests at once, with the arm that is used for one."""
        if not self.settings.levels:
            return
        arm = used_arm(self.verdict, self._arms, self.entries)
        self.together = Together.of(opened, arm, parts, self.settings, clock=self.clock)
        self.note(f"several requests at once: {self.together.arm.name}")
        self.together.run(journal, self._tell)

    def _tell(self, what: str) -> None:
        spent = int(self.clock() - self._begun)
        self.progress(min(spent, int(self.settings.budget)), int(self.settings.budget), what)


def _named(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """Return the arms of these names; some are the adaptive forms of others."""
    known = {arm.name: arm for arm in map(adaptive_of, arms)} | {arm.name: arm for arm in arms}
    return [known[name] for name in names]


def _mixed(arms: Sequence[Arm]) -> list[Arm]:
    """Order arms so that each family has its turn, if the time does not suffice for all."""
    families: dict[str, list[Arm]] = {}
    for arm in arms:
        families.setdefault(arm.family, []).append(arm)
    longest = max((len(own) for own in families.values()), default=0)
    return [own[i] for i in range(longest) for own in families.values() if i < len(own)]
