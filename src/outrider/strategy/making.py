"""Builds drafters, rules, policies and growths from names, expressions or objects."""

from dataclasses import replace
from typing import NoReturn

from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.drafters.given import Given
from outrider.drafters.method import unknown_priors
from outrider.drafters.neural.growth import Growth
from outrider.policies import Source
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from outrider.strategy.catalogue import drafter_record, drafter_records, record


def make_drafter(asked: Expression, given: Given) -> Drafter:
    """Build the drafter that an expression names, including the drafters it is made of.

    Raises:
        OptionError: a name or option is unknown, or something that the drafter needs is missing.
    """
    found = drafter_record(asked.name)
    found.check_inner(len(asked.inner))
    if found.grown:
        for part in asked.inner:
            given = replace(given, growth=record("growth", part.name).build(part.options))
        return found.drafter(given, (), asked.options)
    inner = [make_drafter(part, given) for part in asked.inner]
    return found.drafter(given, inner, asked.options)


def with_priors(given: Given) -> Given:
    """Return `given` with the prior estimates from the records of drafters."""
    by_class = {one.cls: one for one in drafter_records()}

    def priors_of(drafter: Drafter) -> tuple[Source, ...]:
        known = by_class.get(type(drafter))
        return (known.priors if known else unknown_priors)(drafter, whole)

    whole = replace(given, priors_of=priors_of)
    return whole


def check_drafter(asked: Expression) -> None:
    """Raise `OptionError` for an unknown name or option, or for a wrong number of parts."""
    found = drafter_record(asked.name)
    found.check_inner(len(asked.inner))
    found.settings(asked.options)
    for part in asked.inner:
        if found.grown:
            record("growth", part.name).build(part.options)
        else:
            check_drafter(part)


def drafters_in(asked: Expression) -> list[str]:
    """Return the names of the drafters in an expression, outermost first."""
    inner = () if drafter_record(asked.name).grown else asked.inner
    return [asked.name, *(name for part in inner for name in drafters_in(part))]


def make_rule(asked: str | AcceptanceRule) -> AcceptanceRule:
    """Build the rule of an expression; return a built rule as it is.

    Raises `OptionError` for anything else.
    """
    found = _built("rule", asked) if isinstance(asked, str) else asked
    return found if isinstance(found, AcceptanceRule) else _refuse("rule", "AcceptanceRule", asked)


def make_policy(asked: str | DraftPolicy) -> DraftPolicy:
    """Build the policy of an expression; return a built policy as it is.

    Raises `OptionError` for anything else.
    """
    found = _built("policy", asked) if isinstance(asked, str) else asked
    return found if isinstance(found, DraftPolicy) else _refuse("policy", "DraftPolicy", asked)


def make_growth(asked: str | Growth) -> Growth:
    """Build the growth of an expression; return a built growth as it is.

    Raises `OptionError` for anything else.
    """
    found = _built("growth", asked) if isinstance(asked, str) else asked
    return found if isinstance(found, Growth) else _refuse("growth", "Growth", asked)


def _built(kind: str, text: str) -> object:
    """Build the method that an expression names. Raises `OptionError` if it is unknown."""
    parsed = Expression.parse(text, kind)
    if parsed.inner:
        raise OptionError(
            f"{kind} {text!r} contains other methods", hint="Only drafters can combine others"
        )
    return record(kind, parsed.name).build(parsed.options)


def _refuse(kind: str, protocol: str, asked: object) -> NoReturn:
    raise OptionError(
        f"{kind} is {asked!r:.60}",
        hint=f"Give a name (`outrider methods --kind {kind}`), or an object that is a {protocol}",
    )
