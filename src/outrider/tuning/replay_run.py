"""Screening: what each arm would have taken for recorded texts, without a forward of the target.

The drafts, rounds and acceptances are those of live decoding (`models/replay.py`). Drafting is
measured; forwards take what was measured for their rows. The sums rank arms; they never decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from statistics import fmean
from typing import Any

from outrider.bench.models import OpenModels
from outrider.core.metrics import ratio
from outrider.models.replay import Recording, ReplayModel
from outrider.tuning.facts import Facts
from outrider.tuning.intervals import log_ratio
from outrider.tuning.space import Arm, Screening


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a replay predicts for one arm.

    Attributes:
        arm: its name.
        speedup: predicted seconds per token of plain decoding over those of the arm, the geometric
            mean over texts.
        tokens_per_round: tokens of a round, the target's own included.
        acceptance: accepted over drafted tokens.
        texts: number of texts.
    """

    arm: str
    speedup: float
    tokens_per_round: float
    acceptance: float
    texts: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def screen(
    arm: Arm,
    opened: OpenModels,
    recordings: Sequence[Recording],
    facts: Facts,
    sampling: Mapping[str, Any],
) -> Prediction:
    """Replay the texts with the drafter of one arm.

    The drafter is built here, from names: one that has written the texts before would find them in
    its memory, and replay would predict a speed that nothing has.

    Args:
        arm: an arm that can be screened.
        opened: the models; only those below the target run.
        recordings: texts of the target, each of another prompt.
        facts: the costs of the target.
        sampling: options of every text, the same as those of the recordings.

    Raises:
        OptionError: `load` refuses the options of the arm.
        StrategyError: its rule keeps other tokens than the target's.
        ValueError: the arm cannot be screened.
    """
    if arm.screening is Screening.NONE:
        raise ValueError(f"{arm.name} cannot be replayed")
    known = [r if arm.screening is Screening.CLOSE else replace(r, rows=None) for r in recordings]
    target = ReplayModel(opened.models["target"], known)
    generator = replace(opened, models={**opened.models, "target": target}).build(arm.named)
    surface, logs = facts.surface, list[float]()
    rounds = accepted = drafted = written = 0
    for recording in known:
        target.asked.clear()
        generator.reset()
        result = generator.generate(list(recording.prompt), **sampling)
        counters = result.speculation.target
        forwards = [surface.seconds(forward.rows) for forward in target.asked]
        extra = counters.rounds - counters.undrafted_rounds  # rounds with a draft handle it as well
        seconds = counters.seconds.get("draft", 0.0) + sum(forwards)
        seconds += facts.overhead * (counters.rounds + extra)
        tokens = len(recording.tokens)
        logs.append(log_ratio((surface.seconds(1) + facts.overhead) * tokens, seconds))
        rounds += counters.rounds
        accepted += counters.accepted
        drafted += counters.drafted
        written += tokens
    return Prediction(
        arm=arm.name,
        speedup=exp(fmean(logs)),
        tokens_per_round=ratio(written, rounds),
        acceptance=ratio(accepted, drafted),
        texts=len(known),
    )


NEAR = 0.85
"""Arms that are predicted to reach this share of the best speed stay."""
MOST = 8
"""Most arms of a race, without plain decoding and the automatic choice."""


def kept(arms: Sequence[Arm], predictions: Mapping[str, Prediction], most: int = MOST) -> list[Arm]:
    """Return the arms that race: the best one of each family, then all that are close to the best.

    Args:
        arms: all arms; those without a prediction that cannot be replayed stay in any case.
        predictions: predictions by name of arm.
        most: most arms that are kept of those with a prediction.
    """
    ranked = sorted(
        (arm for arm in arms if arm.name in predictions),
        key=lambda arm: predictions[arm.name].speedup,
        reverse=True,
    )
    firsts = list({arm.family: arm for arm in reversed(ranked)}.values())[::-1]
    firsts.sort(key=lambda arm: predictions[arm.name].speedup, reverse=True)
    best = predictions[ranked[0].name].speedup if ranked else 0.0
    near = [arm for arm in ranked if predictions[arm.name].speedup >= NEAR * best]
    chosen = list(dict.fromkeys(arm.name for arm in (*firsts[: most // 2 + 1], *near)))[:most]
    live = [arm for arm in arms if arm.screening is Screening.NONE]
    return [*(arm for arm in ranked if arm.name in chosen), *live]
