"""Whether a rule can judge what a drafter makes: asked when a strategy is built, at every level."""

from outrider.errors import StrategyError
from outrider.protocols import AcceptanceRule, Drafter


def check_fit(rule: AcceptanceRule, drafter: Drafter) -> None:
    """Raise `StrategyError` when `rule` reads something that `drafter` can not give."""
    name = type(rule).__name__
    if drafter.draw not in rule.draws:
        law = "RecursiveRejection, which judges siblings however they were drawn, or "
        raise StrategyError(
            f"{name} can not judge drafts drawn {drafter.draw}, as {drafter.name!r} draws them; it "
            f"judges those drawn {' or '.join(sorted(rule.draws))}",
            hint=f"Use {law if rule.needs.law else ''}Match, which judges any draft",
        )
    for what in ("law", "reference"):
        if getattr(rule.needs, what) and not getattr(drafter.gives, what):
            raise StrategyError(
                f"{name} needs the {what} of each drafted token, which {drafter.name!r} does not "
                "give",
                hint="Use Match, or draft with a model",
            )
