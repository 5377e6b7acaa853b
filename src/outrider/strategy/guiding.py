"""Guidance as users give it: a scale, an expression, or a recipe."""

from collections.abc import Mapping, Sequence

from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.core.types import Prompt
from outrider.guidance.classifier_free import ClassifierFree, check_scale
from outrider.guidance.recipe import Parts, Recipe
from outrider.inputs.given import TextCodec
from outrider.models.caches.prefill import check_prompt
from outrider.protocols import LanguageModel
from outrider.protocols.method import Value
from outrider.strategy.catalogue import names, record, records

GivenGuidance = float | str | Recipe
"""A scale of classifier-free guidance, an expression such as `contrastive(amateur=./small)`, or a
recipe."""


def recipe_of(given: GivenGuidance) -> Recipe | None:
    """Read a guidance method; None for a scale of 1, which guides nothing, in any form.

    Raises:
        OptionError: there is no such method, or an option of it is not valid.
    """
    if isinstance(given, Recipe):
        return None if given == ClassifierFree(scale=1.0) else _with_known_types(given)
    if not isinstance(given, str):
        check_scale(given)
        return None if given == 1.0 else ClassifierFree(scale=float(given))
    try:
        return recipe_of(float(given))
    except ValueError:
        return recipe_of(named(given, {}))


def _with_known_types(recipe: Recipe) -> Recipe:
    """Return a recipe that was built in Python. Raises `OptionError` if a value of an option has a
    type that the option does not accept."""
    listed = recipe.name in names("guidance") and _class(recipe.name) is type(recipe)
    for option in record("guidance", recipe.name).options.values() if listed else ():
        value = getattr(recipe, option.name)
        if value is None or isinstance(value, bool | int | float | str | tuple):
            option.read(recipe.name, value)
    return recipe


def named(given: str, more: Mapping[str, Value]) -> Recipe:
    """Read a method by name, with options in parentheses and `more` of them.

    Raises:
        OptionError: there is no such method, or an option is not valid or given twice.
    """
    expression = Expression.parse(given, "guidance")
    if expression.inner:
        raise OptionError(
            f"guidance {given!r} holds another method",
            hint=f"Give one of {', '.join(names('guidance'))}, with options in parentheses",
        )
    if twice := [name for name in more if name in expression.options]:
        raise OptionError(
            f"option {twice[0]} of guidance {given!r} is given twice", hint="Leave one of them out"
        )
    found = record("guidance", expression.name).build({**expression.options, **more})
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


def check_contrast(prompts: Sequence[Prompt], target: LanguageModel, recipe: Recipe | None) -> None:
    """Check the other prompts that come with prompts; `recipe` is the guidance of `target`, None if
    that is unknown or there is none.

    Raises:
        OptionError: nothing reads them.
        ContextError: one is empty, does not fit, or holds ids that the target does not know.
    """
    others = [prompt.contrast for prompt in prompts if prompt.contrast is not None]
    if not others:
        return
    if recipe is not None or not target.info.whole_prompts:
        check_reads_contrast(recipe)
    for other in others:
        if other.image_prompt is None and other.context is None:  # else the model knows its length
            check_prompt(target, other, "the other prompt (contrast)")


def check_reads_contrast(recipe: Recipe | None) -> None:
    """Raise `OptionError` unless the method reads another prompt beside the one that it guides."""
    if recipe is None or not recipe.reads_contrast:
        method = "the model is not guided" if recipe is None else f"{recipe.name} reads none"
        raise OptionError(
            f"another prompt is given for contrast, but {method}",
            hint=f"Leave it out, or choose {_readers()}",
        )


def by_needs() -> dict[str, list[str]]:
    """Return the names of the methods: `alone` need the target only, `with_others` another model,
    or a store."""
    found: dict[str, list[str]] = {"alone": [], "with_others": []}
    for one in records("guidance"):
        needed = any(option.required for option in one.options.values())
        found["with_others" if needed else "alone"].append(one.name)
    return found


def _readers() -> str:
    """Name the methods that read another prompt."""
    reading = [name for name in names("guidance") if _class(name).reads_contrast]
    return f"guidance {' or '.join(reading)}"


def _class(method: str) -> type[Recipe]:
    found = record("guidance", method).cls
    assert issubclass(found, Recipe)
    return found


class _Recipes:
    """The guidance methods as functions of their options: `Guidance.contrastive(amateur=...)`."""

    def __getattr__(self, name: str) -> type[Recipe]:
        method = name.replace("_", "-")
        if method not in names("guidance"):
            raise AttributeError(f"there is no guidance method {name!r}: {names('guidance')}")
        return _class(method)

    def __dir__(self) -> list[str]:
        return [name.replace("-", "_") for name in names("guidance")]


Guidance = _Recipes()
"""Builds guidance methods by name; the options are the fields of their classes."""
