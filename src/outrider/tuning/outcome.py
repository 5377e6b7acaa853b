"""From everything that a tuning has measured to its profile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.bench.environment import environment
from outrider.bench.journal import Journal
from outrider.bench.measure import Run
from outrider.bench.models import OpenModels
from outrider.bench.strategies import BASELINE
from outrider.engine.options import Models, Runtime
from outrider.engine.profiles.choosing import profile_key
from outrider.strategy.profile import UNDECIDED, Profile, ProfileArm
from outrider.tuning.concurrency.together import Together, own_limit, used_arm
from outrider.tuning.facts import Facts
from outrider.tuning.prompts import Parts
from outrider.tuning.race import Entry
from outrider.tuning.reasons import Reason
from outrider.tuning.replay_run import Prediction
from outrider.tuning.settings import TuneSettings
from outrider.tuning.space import Arm, Skipped, plain_arm
from outrider.tuning.verdict import Answer, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tuning has measured.

    Attributes:
        settings: what was tuned.
        command: the command that measures again.
        opened: the models.
        journal: all texts.
        parts: the prompts.
        facts: costs of the target.
        predictions: predictions by arm.
        entries: the arms of the race, the best first.
        verdict: the verdict; None: it was interrupted before.
        arms: the arms by name.
        skipped: what was left out.
        together: what was measured with several requests at once; None: nothing.
        seconds: seconds that it took.
        left_out: prompts that do not fit the window.
        finished: whether nothing was interrupted.
    """

    settings: TuneSettings
    command: str
    opened: OpenModels
    journal: Journal
    parts: Parts
    facts: Facts
    predictions: Mapping[str, Prediction]
    entries: Sequence[Entry]
    verdict: Verdict | None
    arms: Mapping[str, Arm]
    skipped: Sequence[Skipped]
    together: Together | None
    seconds: float
    left_out: int
    finished: bool

    def profile(self) -> Profile:
        """Return the profile."""
        parts, facts = self.parts, self.facts
        found = environment(self.command)
        return Profile(
            key=key_of(self.opened),
            verdict=UNDECIDED if self.verdict is None else str(self.verdict.answer),
            reason=self._reason(),
            arms=self._profile_arms(),
            finished=self.finished,
            weak=parts.weak,
            facts={
                **facts.to_dict(),
                "dtype": self.opened.dtype,
                "seconds": self.seconds,
                "budget": self.settings.budget,
                "sampling": dict(self.settings.bench.sampling),
                "arms": self._table(),
                "classes": self._classes(),
                "concurrency": self._together(),
                "skipped": [str(one) for one in self.skipped],
                "commit": found["commit"],
                "versions": found["versions"],
                "device": found["device"],
            },
            prompts={
                "source": list(self.settings.workloads) or "the shipped workloads",
                "hash": parts.digest,
                "search": len(parts.search),
                "verdict": len(parts.verdict),
                "left_out": self.left_out,
                "repeated": self._repeated(),
            },
            date=found["created"],
            command=self.command,
        )

    def _profile_arms(self) -> list[ProfileArm]:
        verdict, arm = self.verdict, used_arm(self.verdict, self.arms, self.entries)
        plain = ProfileArm(name=BASELINE, options={"mode": "none"})
        if arm.name == BASELINE:
            return [plain]
        if verdict is None or verdict.answer is not Answer.DRAFT:
            return self._at_once(ProfileArm(name=arm.name))
        best = ProfileArm(
            name=arm.name,
            options=dict(arm.named.options),
            cap=own_limit(self.opened, arm),
            speedup={} if verdict.speedup is None else verdict.speedup.to_dict(),
        )
        slower = [replace(plain, kind=name) for name in verdict.slower_classes]
        return [*self._at_once(best), *slower]

    def _at_once(self, arm: ProfileArm) -> list[ProfileArm]:
        """Return the arm for one request, and for each number of requests that was measured."""
        levels = [] if self.together is None else self.together.levels
        return [
            arm,
            *(
                replace(
                    arm,
                    concurrency=level.concurrency,
                    cap=level.cap,
                    speedup={} if level.speedup is None else level.speedup.to_dict(),
                )
                for level in levels
            ),
        ]

    def _together(self) -> dict[str, Any]:
        together = self.together
        if together is None:
            return {}
        return {
            "arm": together.arm.name,
            "levels": [level.to_dict() for level in together.levels],
            "texts": together.blocks.texts,
            "differ": together.blocks.differ,
        }

    def _runs(self, arm: str) -> tuple[list[Run], list[Run]]:
        """Return the texts of plain decoding and of an arm for the prompts of the verdict, or of
        the race before it."""
        parts = self.parts
        for places in (parts.verdict, parts.search):
            tasks = {place.task for place in places}
            own = [r for r in self.journal.runs.values() if r.system == arm and r.task in tasks]
            keys = {(r.task, r.repeat) for r in own}
            plain = [
                r
                for r in self.journal.runs.values()
                if r.system == plain_arm().name and (r.task, r.repeat) in keys
            ]
            if own and plain:
                return plain, own
        return [], []

    def _reason(self) -> str:
        verdict = self.verdict
        name = verdict.arm if verdict is not None else self._best
        reason = Reason.of(*self._runs(name))
        if reason is None:
            return f"{name} is the best arm, and it drafted nothing."
        return f"{name}: {reason}"

    @property
    def _best(self) -> str:
        ranked = sorted(self.entries, key=lambda entry: (entry.rounds, entry.mean), reverse=True)
        return ranked[0].name

    def _table(self) -> list[dict[str, Any]]:
        """Return one row for each arm that was predicted or raced, the best first."""
        judged = {} if self.verdict is None else self.verdict.speedups
        raced = {entry.name: entry for entry in self.entries}
        screened = sorted(self.predictions.values(), key=lambda p: p.speedup, reverse=True)
        names = [*raced, *(p.arm for p in screened if p.arm not in raced)]
        rows: list[dict[str, Any]] = []
        for name in names:
            predicted = self.predictions.get(name)
            speedup = raced[name].speedup if name in raced else None
            verdict = judged.get(name)
            reason = Reason.of(*self._runs(name)) if name in raced else None
            rows.append(
                {
                    "arm": name,
                    "predicted": None if predicted is None else predicted.to_dict(),
                    "raced": None if speedup is None else speedup.to_dict(),
                    "verdict": None if verdict is None else verdict.to_dict(),
                    "figures": None if reason is None else reason.to_dict(),
                }
            )
        return rows

    def _classes(self) -> dict[str, Any]:
        if self.verdict is None:
            return {}
        return {name: own.to_dict() for name, own in self.verdict.classes.items()}

    def _repeated(self) -> float:
        """Return the share of tokens inside repeated passages: these flatter copies."""
        plain = [r for r in self.journal.runs.values() if r.system == plain_arm().name]
        tokens = sum(run.tokens for run in plain)
        return sum(run.repeated for run in plain) / tokens if tokens else 0.0


def key_of(opened: OpenModels) -> dict[str, Any]:
    """Return the key of a profile that is measured with these models."""
    own = opened.settings
    models = Models(target=own.target, qualifier=own.qualifier, draft=own.draft)
    runtime = Runtime(
        dtype=own.dtype, cache_dtype=own.cache_dtype, device=own.device, threads=own.threads
    )
    key = profile_key(models, runtime)
    if own.scaled:
        prints = {name: tier.fingerprint for name, tier in opened.tiers.items()}
        key |= {"target": prints.pop("target"), "drafts": prints}
    return key
