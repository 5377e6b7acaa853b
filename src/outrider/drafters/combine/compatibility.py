"""Checks whether a rule can judge the drafts of a drafter; run at every level of a new strategy."""

from collections.abc import Iterator

from outrider.core.errors import StrategyError
from outrider.core.types import Draw
from outrider.drafters.combine.merge import Merge
from outrider.drafters.combine.pair import Pair
from outrider.drafters.combine.switch import Switch
from outrider.protocols import AcceptanceRule, Drafter, LanguageModel
from outrider.protocols.rule import ReadsStates


def check_fit(rule: AcceptanceRule, drafter: Drafter) -> None:
    """Raise `StrategyError` if `rule` reads something that `drafter` cannot supply, or if the way
    its drafts are made would bias the rule."""
    for one in _sources(drafter):
        _check_draw(rule, one)
    name = type(rule).__name__
    for field, what in (("probs", "probabilities"), ("reference", "logits")):
        if getattr(rule.needs, field) and not getattr(drafter.gives, field):
            raise StrategyError(
                f"{name} needs the {what} of each drafted token, which {drafter.name!r} does not "
                "supply",
                hint="Use Match, or draft with a model",
            )
    if rule.needs.probs:
        _check_choices(rule, drafter)


def check_states(rule: AcceptanceRule, verifier: LanguageModel) -> None:
    """Raise `StrategyError` or `VocabularyError` if `rule` reads hidden states that `verifier` does
    not return."""
    if isinstance(rule, ReadsStates):
        rule.check_target(verifier)


def _sources(drafter: Drafter) -> Iterator[Drafter]:
    """Yield the drafters whose drafts reach the rule: both halves of a pair, because each draft
    comes from one of them; a union counts as one drafter.
    """
    if isinstance(drafter, Pair) and not isinstance(drafter, Merge):
        yield from _sources(drafter.first)
        yield from _sources(drafter.second)
    else:
        yield drafter


def _check_draw(rule: AcceptanceRule, drafter: Drafter) -> None:
    if drafter.draw in rule.draws:
        return
    probs = "RecursiveRejection, which supports all ways of drawing siblings, or "
    raise StrategyError(
        f"{type(rule).__name__} cannot judge drafts of {drafter.name!r}, which are drawn "
        f"{drafter.draw}; it supports drafts drawn {' or '.join(sorted(rule.draws))}",
        hint=f"Use {probs if rule.needs.probs else ''}Match, which supports all drafts",
    )


def _check_choices(rule: AcceptanceRule, drafter: Drafter) -> None:
    """Check that drafts are not selected by the tokens drawn in them: a selected draft no longer
    has the distribution from which it was drawn."""
    if not isinstance(drafter, Pair):
        return
    first = drafter.first
    sampled = any(one.draw is not Draw.DETERMINISTIC for one in _sources(first))
    if isinstance(drafter, Switch) and drafter.by == "score" and sampled:
        raise StrategyError(
            f"{type(rule).__name__} needs the probabilities of each drafted token, but a switch by "
            f"score selects drafts of {first.name!r} by the values of their tokens",
            hint="Use Match, a switch by match, or a first drafter that does not sample",
        )
    for half in (first, drafter.second):
        _check_choices(rule, half)
