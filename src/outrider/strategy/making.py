"""Builds drafters, rules, growths and policies from names, expressions or objects."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.diffusion.rule import Diffusion
from outrider.drafters.given import Given
from outrider.drafters.method import unknown_priors
from outrider.drafters.neural.growth import Growth
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.policies import Source
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy
from outrider.protocols.method import Value
from outrider.strategy.catalogue import drafter_record, drafter_records, names, record

GivenKvPolicy = str | KvPolicy | None
"""A policy of the cache: an expression such as `snapkv(budget=0.3)`, an object, or None."""

GivenDenoising = str | Diffusion | None
"""How a masked denoiser writes: an expression such as `threshold(block=16)`, an object, or None."""

_BUDGET = Range(
    0,
    above=True,
    optional=True,
    hint="Give a share of the rows, such as 0.25, or a number of rows, such as 1024",
)


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


def make_kv_policy(
    asked: GivenKvPolicy, budget: float | None = None, option: str = "kv"
) -> KvPolicy | None:
    """Build the policy of an expression, or return a built one, with another budget if one is
    given. None if there is neither.

    Args:
        asked: the policy.
        budget: replaces the budget of the policy: a share up to 1, or a number of rows.
        option: how the options of `load` begin, for messages: `kv` or `draft_kv`.

    Raises:
        OptionError: there is no such method, an option is not valid, or a budget is given twice or
            without a policy.
    """
    _BUDGET.check(f"{option}_budget", budget)
    if asked is None:
        if budget is None:
            return None
        raise OptionError(
            f"{option}_budget is {budget:g}, and there is no policy that keeps to it",
            hint=f"Give {option}_policy as well: {', '.join(names('kv-policy'))}",
        )
    if isinstance(asked, str):
        more = {} if budget is None else {"budget": budget}
        if more and "budget" in Expression.parse(asked, "kv-policy").options:
            raise OptionError(
                f"the budget is given twice: {option}_policy is {asked!r:.60}, and {option}_budget "
                f"is {budget:g}",
                hint="Leave one of them out",
            )
        found = _built("kv-policy", asked, more)
    else:
        found = asked
    if not isinstance(found, KvPolicy):
        _refuse("kv-policy", "KvPolicy", asked)
    other = budget is not None and found is asked
    return replace(found, budget=budget) if other else found


def make_denoising(asked: str | Diffusion) -> Diffusion:
    """Build the commit rule of an expression; return a built one as it is.

    Raises `OptionError` for anything else.
    """
    found = _built("diffusion", asked) if isinstance(asked, str) else asked
    return found if isinstance(found, Diffusion) else _refuse("diffusion", "Diffusion", asked)


_NO_OPTIONS: Mapping[str, Value] = MappingProxyType({})


def _built(kind: str, text: str, more: Mapping[str, Value] = _NO_OPTIONS) -> object:
    """Build the method that an expression names, with `more` options. Raises `OptionError` if it
    is unknown."""
    parsed = Expression.parse(text, kind)
    if parsed.inner:
        raise OptionError(
            f"{kind} {text!r} contains other methods", hint="Only drafters can combine others"
        )
    return record(kind, parsed.name).build({**parsed.options, **more})


def _refuse(kind: str, protocol: str, asked: object) -> NoReturn:
    raise OptionError(
        f"{kind} is {asked!r:.60}",
        hint=f"Give a name (`outrider methods --kind {kind}`), or an object that is a {protocol}",
    )
