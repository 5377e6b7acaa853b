"""The methods that are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.expression import Expression, split_list
from outrider.diffusion.rule import Diffusion
from outrider.strategy.catalogue import record

BASE = "low-confidence"
"""One token a round, the surest one: every other method is paired with it."""


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A commit rule and how it was named.

    Attributes:
        name: the expression.
        rule: the rule.
    """

    name: str
    rule: Diffusion


def parse_methods(text: str) -> list[NamedRule]:
    """Return the rules of a list such as `threshold,factor(factor=1.3)`, the base first.

    Raises:
        OptionError: a name or an option is unknown.
    """
    names = list(dict.fromkeys([BASE, *split_list(text)]))
    return [NamedRule(name, _rule(name)) for name in names]


def _rule(name: str) -> Diffusion:
    parsed = Expression.parse(name, "method")
    if parsed.inner:
        raise OptionError(f"{name} contains other methods", hint="Give options only")
    found = record("diffusion", parsed.name).build(parsed.options)
    assert isinstance(found, Diffusion)
    return found


def check_base(methods: Sequence[NamedRule]) -> None:
    """Raise `OptionError` unless the first method is the base."""
    if not methods or methods[0].name != BASE:
        raise OptionError(f"the first method is not {BASE}", hint=f"Begin with {BASE}")
