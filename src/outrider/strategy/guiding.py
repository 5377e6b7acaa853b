"""Guidance as users give it: a scale, an expression, or a recipe."""

from collections.abc import Mapping

from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.guidance.classifier_free import ClassifierFree, check_scale
from outrider.guidance.recipe import Parts, Recipe
from outrider.inputs.given import TextCodec
from outrider.protocols import LanguageModel
from outrider.strategy.catalogue import names, record

GivenGuidance = float | str | Recipe
"""A scale of classifier-free guidance, an expression such as `contrastive(amateur=./small)`, or a
recipe."""


def recipe_of(given: GivenGuidance) -> Recipe | None:
    """Read a guidance method; None for a scale of 1, which guides nothing.

    Raises:
        OptionError: there is no such method, or an option of it is not valid.
    """
    if isinstance(given, Recipe):
        return given
    if not isinstance(given, str):
        check_scale(given)
        return None if given == 1.0 else ClassifierFree(scale=float(given))
    try:
        return recipe_of(float(given))
    except ValueError:
        pass
    expression = Expression.parse(given, "guidance")
    if expression.inner:
        raise OptionError(
            f"guidance {given!r} holds another method",
            hint=f"Give one of {', '.join(names('guidance'))}, with options in parentheses",
        )
    found = record("guidance", expression.name).build(expression.options)
    assert isinstance(found, Recipe)
    return found


def guided(
    recipe: Recipe,
    target: LanguageModel,
    models: Mapping[str, LanguageModel],
    codec: TextCodec | None,
) -> LanguageModel:
    """Build the guided target. Raises `OutriderError` if the models do not fit."""
    return recipe.build(Parts(target=target, models=models, codec=codec))


class _Recipes:
    """The guidance methods as functions of their options: `Guidance.contrastive(amateur=...)`."""

    def __getattr__(self, name: str) -> type[Recipe]:
        method = name.replace("_", "-")
        if method not in names("guidance"):
            raise AttributeError(f"there is no guidance method {name!r}: {names('guidance')}")
        found = record("guidance", method).cls
        assert issubclass(found, Recipe)
        return found

    def __dir__(self) -> list[str]:
        return [name.replace("-", "_") for name in names("guidance")]


Guidance = _Recipes()
"""Builds guidance methods by name; the options are the fields of their classes."""
