"""Describes a strategy in words; methods are shown as expressions that can be parsed again."""

from dataclasses import fields, is_dataclass

from outrider.diffusion.rule import Diffusion
from outrider.drafters.neural.growth import Growth
from outrider.policies import ExpectedGain
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel
from outrider.protocols.method import Value, plain_options, text_of
from outrider.strategy.catalogue import KINDS, records

Described = Drafter | AcceptanceRule | DraftPolicy | Growth | Diffusion

_MOST_SOURCES = 6
"""Largest number of sources of a policy that are listed."""


def expression_of(method: Described) -> str:
    """Return the expression of a method, such as `switch(sam,recycling,at_least=3)`.

    It holds the method's name, the names of its parts, and the options that differ from the
    defaults of the class. A method without a record is shown by its class name.
    """
    inner = [expression_of(part) for part in [*_parts(method), *_growths(method)]]
    options = [f"{name}={text_of(value)}" for name, value in _changed(method)]
    name = _name(method)
    return f"{name}({','.join([*inner, *options])})" if inner or options else name


def models_of(drafter: Drafter) -> list[str]:
    """Return the names of the models that a drafter runs, outermost first."""
    return list(dict.fromkeys(model.info.name for model in lower_models(drafter)))


def lower_models(drafter: Drafter) -> list[LanguageModel]:
    """Return the models that a drafter runs, outermost first; one may occur several times."""
    found = [value for value in _values(drafter) if isinstance(value, LanguageModel)]
    for part in _parts(drafter):
        found += lower_models(part)
    return found


def sources_of(policy: DraftPolicy) -> str:
    """Summarize the sources that a policy chooses from; empty if it names none."""
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
    """Return the plain options whose values differ from the defaults of the class."""
    if isinstance(method, ExpectedGain):  # its numbers are measured, not options
        return []
    found: list[tuple[str, Value]] = []
    for option in plain_options(type(method)).values():
        value = getattr(method, option.name)
        if value != option.default:
            found.append((option.name, value))
    return found
