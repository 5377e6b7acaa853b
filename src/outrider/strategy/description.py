"""A strategy in words: the methods it is made of, as expressions that can be read again."""

from dataclasses import fields, is_dataclass

from outrider.drafters.neural.growth import Growth
from outrider.policies import ExpectedGain
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel
from outrider.protocols.method import Value, plain_options, text_of
from outrider.strategy.catalogue import KINDS, records

Described = Drafter | AcceptanceRule | DraftPolicy | Growth

_MOST_SOURCES = 6
"""Sources of a policy that are named before the rest is left out."""


def expression_of(method: Described) -> str:
    """`switch(sam,recycling,at_least=3)`: the names of a method and of what it is made of, and the
    options that are not those of the class. The class name where it has no record."""
    inner = [expression_of(part) for part in [*_parts(method), *_growths(method)]]
    options = [f"{name}={text_of(value)}" for name, value in _changed(method)]
    name = _name(method)
    return f"{name}({','.join([*inner, *options])})" if inner or options else name


def models_of(drafter: Drafter) -> list[str]:
    """The models that a drafter runs, outermost first."""
    found = [value.info.name for value in _values(drafter) if isinstance(value, LanguageModel)]
    for part in _parts(drafter):
        found += models_of(part)
    return list(dict.fromkeys(found))


def sources_of(policy: DraftPolicy) -> str:
    """The sources that a policy deals with, in short; empty where it names none."""
    if not isinstance(policy, ExpectedGain) or not policy.sources:
        return ""
    named = [source.name for source in policy.sources]
    more = f", {len(named) - _MOST_SOURCES} more" if len(named) > _MOST_SOURCES else ""
    return f" over {', '.join(named[:_MOST_SOURCES])}{more}"


def _name(method: object) -> str:
    for kind in KINDS:
        for one in records(kind):
            if one.cls is type(method) and one.name != "auto":
                return one.name
    return type(method).__name__


def _parts(method: object) -> list[Drafter]:
    return [value for value in _values(method) if isinstance(value, Drafter)]


def _growths(method: object) -> list[Growth]:
    return [value for value in _values(method) if isinstance(value, Growth)]


def _values(method: object) -> list[object]:
    if not is_dataclass(method):
        return []
    return [getattr(method, one.name) for one in fields(method) if one.init and one.repr]


def _changed(method: object) -> list[tuple[str, Value]]:
    """Plain options whose values are not those of the class."""
    if isinstance(method, ExpectedGain):  # its numbers were measured
        return []
    found: list[tuple[str, Value]] = []
    for option in plain_options(type(method)).values():
        value = getattr(method, option.name)
        if value != option.default:
            found.append((option.name, value))
    return found
