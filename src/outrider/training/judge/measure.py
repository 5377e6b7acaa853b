"""What a probe achieves: tokens a round, changed tokens, and final answers that stay."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.acceptance import Judge, Match, Probe
from outrider.core.metrics import changed_share, total
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import ModelDrafter
from outrider.policies import FixedLength
from outrider.protocols import AcceptanceRule, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy
from outrider.training.judge.labels import Splicer, Task


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one threshold.

    Attributes:
        threshold: the threshold; 1 is the standard rule.
        tokens_a_round: emitted tokens of a round.
        changed: share of the tokens that are not the target's choice.
        same_answers: share of the tasks whose final answer is that of the target alone.
    """

    threshold: float
    tokens_a_round: float
    changed: float
    same_answers: float

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:.4g}: {self.tokens_a_round:.2f} tokens a round, "
            f"{self.changed:.1%} changed, {self.same_answers:.1%} of the final answers the same"
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the figures as JSON."""
        return {
            "threshold": self.threshold,
            "tokens_a_round": round(self.tokens_a_round, 3),
            "changed": round(self.changed, 4),
            "same_answers": round(self.same_answers, 4),
        }


def measure(
    splicer: Splicer, probe: Probe, tasks: Sequence[Task], thresholds: Sequence[float], depth: int
) -> list[Measured]:
    """Decode the tasks at temperature 0 with drafts of `depth` tokens, at each threshold.

    Tasks whose own text has no final answer, or does not end in time, are left out.
    """
    known: list[tuple[Task, str]] = []
    for task in tasks:
        text = splicer.finished(task.prompt)
        own = None if text is None else splicer.answer(task, text)
        if own is not None:
            known.append((task, own))
    return [_measured(splicer, probe, known, threshold, depth) for threshold in thresholds if known]


def _measured(
    splicer: Splicer,
    probe: Probe,
    known: Sequence[tuple[Task, str]],
    threshold: float,
    depth: int,
) -> Measured:
    rule = Match() if threshold == 1.0 else Judge(probe=probe, threshold=threshold)
    found = _written(splicer, [task for task, _ in known], rule, depth)
    same = [
        splicer.answer(task, tuple(one.output)) == own
        for one, (task, own) in zip(found, known, strict=True)
    ]
    counters = total([one.counters for one in found])
    return Measured(
        threshold=threshold,
        tokens_a_round=sum(len(one.output) for one in found) / max(counters.rounds, 1),
        changed=changed_share(counters),
        same_answers=sum(same) / len(same),
    )


def _written(
    splicer: Splicer, tasks: Sequence[Task], rule: AcceptanceRule, depth: int
) -> list[Generation]:
    strategy = Strategy(
        target=splicer.target,
        drafter=ModelDrafter(model=splicer.draft),
        rule=rule,
        policy=FixedLength(depth),
    )
    params = SamplingParams(temperature=0.0, max_new_tokens=splicer.longest)
    ends = splicer.target.info.end_ids
    generations = [
        Generation(
            Request(
                Prompt(token_ids=task.prompt),
                Sampler(params, prompt_ids=task.prompt, end_ids=ends),
            )
        )
        for task in tasks
    ]
    for _ in generate(strategy.stage, generations):
        pass
    return generations
