"""Options of guidance: how the scores of several models or prompts are mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.options.options import option
from outrider.core.errors import OptionError
from outrider.strategy.catalogue import names

if TYPE_CHECKING:
    from outrider.engine.result import Result
    from outrider.guidance.recipe import Recipe

PANEL = "Guidance"

Contrast = Annotated[
    str | None,
    option(
        panel=PANEL,
        metavar="TEXT",
        help="The other prompt, for guidance that compares the answers to two: what follows "
        "PROMPT more than TEXT is preferred. Read like PROMPT, with the chat template if there is "
        "one.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Guiding:
    """Options that name a guidance method."""

    guidance: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="NAME|EXPRESSION|SCALE",
            autocompletion=lambda: names("guidance"),
            help="Mix the scores of several models, or of several prompts: "
            f"{', '.join(names('guidance'))}; with options, as "
            "'contrastive(amateur=./small, alpha=0.2)'; `outrider methods --kind guidance` "
            "describes them. A number is the scale of classifier-free guidance: prefer tokens that "
            "the image, or the prompt, makes more likely; 1.5 to 3 follow it more closely, in less "
            "fluent text; 1 disables it. Drafts are checked against the mixed scores.",
        ),
    ] = None
    amateur: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="MODEL",
            help="The weaker model of --guidance contrastive, whose habits are avoided: a folder, "
            "a known model or a hub name, with the vocabulary of the target.",
        ),
    ] = None

    def recipe(self) -> "Recipe | None":
        """Return the guidance method; None if there is none, or a scale of 1.

        Raises:
            OptionError: the method or an option is unknown, or --amateur is given alone.
        """
        from outrider.strategy.guiding import named, recipe_of

        if self.guidance is None:
            if self.amateur is not None:
                raise OptionError(
                    "--amateur is given without --guidance",
                    hint="Give --guidance contrastive as well",
                )
            return None
        if self.amateur is None:
            return recipe_of(self.guidance)
        if _is_number(self.guidance):
            raise OptionError(
                f"--amateur is given, and guidance {self.guidance} has no other model",
                hint="Give --guidance contrastive, or leave --amateur out",
            )
        return named(self.guidance, {"amateur": self.amateur})

    def given(self) -> dict[str, Any]:
        """Return keywords of `load`. Raises `OptionError` as `recipe`."""
        found = self.recipe()
        return {} if found is None else {"guidance": found}

    def check_contrast(self, contrast: str | None, long: bool) -> None:
        """Check `--contrast` before a model is loaded.

        Args:
            contrast: its value.
            long: whether there are documents.

        Raises:
            OptionError: nothing reads it, or it is empty.
        """
        if contrast is None:
            return
        from outrider.strategy.guiding import check_reads_contrast

        if self.guidance is None:
            raise OptionError(
                "--contrast is given without --guidance",
                hint="Give --guidance 1.5, or a method that reads another prompt",
            )
        if not contrast:
            raise OptionError("--contrast is empty", hint="Give a text, or leave it out")
        if long:
            raise OptionError(
                "--contrast is given beside --documents", hint="Leave one of them out"
            )
        check_reads_contrast(self.recipe())


def unguided_note(recipe: "Recipe | None", results: "Sequence[Result]") -> str:
    """Return a line that says that a method was given and guided nothing; empty if it did."""
    if recipe is None or all(one.guidance is not None for one in results):
        return ""
    given = (
        " --contrast TEXT gives one, except beside --documents." if recipe.reads_contrast else ""
    )
    return f"not guided: {recipe} has no other prompt to compare this one with.{given}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
