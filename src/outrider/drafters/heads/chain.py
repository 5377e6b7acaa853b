"""Shared by the drafters of heads: a chain of the head that the target came with."""

from collections.abc import Mapping
from typing import TypeVar

from outrider.core.errors import OptionError
from outrider.drafters.given import Given
from outrider.drafters.neural.model import ModelDrafter
from outrider.models.heads.config import HeadKind
from outrider.models.heads.model import HeadModel
from outrider.policies import Source
from outrider.protocols.method import Value

D = TypeVar("D", bound=ModelDrafter)

FIRST, NEXT = 0.5, 0.55
"""Prior chances of the first token of a head, and of each later one after a right one."""


def head_of(given: Given, name: str, kinds: tuple[HeadKind, ...]) -> HeadModel:
    """Return the head among the given models. Raises `OptionError` if there is none of the kinds.

    Args:
        given: the inputs for building drafters.
        name: name of the drafter, for the message.
        kinds: kinds of heads that it runs.
    """
    model = given.below[-1] if given.below else None
    if isinstance(model, HeadModel) and model.config.kind in kinds:
        return model
    found = "no draft model is given" if model is None else f"{model.info.name} is not one"
    raise OptionError(
        f"drafter {name!r} needs a head of kind {' or '.join(kinds)}, and {found}",
        hint="Give draft=FOLDER with such a head; see docs/heads.md",
    )


def make_chain(
    cls: type[D], name: str, kinds: tuple[HeadKind, ...], given: Given, options: Mapping[str, Value]
) -> D:
    """Build a drafter that drafts chains with the head."""
    return cls(model=head_of(given, name, kinds), **options)  # pyright: ignore[reportArgumentType]


def chain_priors(drafter: ModelDrafter, given: Given) -> tuple[Source, ...]:
    """Return the expected results of a head's chains before the first measurement."""
    each = given.draft_seconds(drafter.model)
    return (
        Source(
            name=drafter.name,
            seconds=each,
            fixed=2 * each + given.measured.overhead,  # rows of the tokens of the last round
            accept=FIRST,
            goes_on=NEXT,
        ),
    )
