"""Options of a search, shared by the commands that write texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.options.options import option
from outrider.core.errors import OptionError
from outrider.strategy.catalogue import names

if TYPE_CHECKING:
    from outrider.search import Scorer

PANEL = "Search"


@dataclass(frozen=True, kw_only=True, slots=True)
class Searching:
    """Options that choose a search strategy and what judges its texts."""

    search: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="NAME[(OPTION=VALUE,...)]",
            autocompletion=lambda: names("search"),
            help="Write several texts or branches, and print the best: "
            f"{', '.join(names('search'))}; such as beam(num_beams=4). `outrider methods` lists "
            "their options.",
        ),
    ] = None
    scorer: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="NAME",
            help="What judges texts: keywords:sea,wind (share of the words that occur), length:40 "
            "(words), classifier:FOLDER (a reward model of transformers; #LABEL after it for one "
            "with several labels), FILE.py:FUNCTION, a function of a text, whose file is run, or "
            "tests:FILE, lines of statements that a program in the text must pass.",
        ),
    ] = None
    allow_code_execution: Annotated[
        bool,
        option(
            "--allow-code-execution",
            panel=PANEL,
            help="Run programs that the model writes, for tests:FILE: in a sandbox of bubblewrap "
            "without network and files, with limits on time, memory and processes.",
        ),
    ] = False
    budget: Annotated[
        int | None,
        option(
            panel=PANEL,
            min=1,
            metavar="TOKENS",
            help="Most rows that the model computes after the prompt; what is found before is "
            "printed.",
        ),
    ] = None

    @property
    def any(self) -> str | None:
        """The option that is given without --search; None if there is none."""
        if self.search is not None:
            return None
        given = {
            "--scorer": self.scorer is not None,
            "--budget": self.budget is not None,
            "--allow-code-execution": self.allow_code_execution,
        }
        return next((name for name, is_given in given.items() if is_given), None)

    def make_scorer(self) -> "Scorer | None":
        """Return the scorer. Raises `OptionError` if its name is invalid."""
        if self.scorer is None:
            return None
        from outrider.search.scorers.named import make_scorer

        return make_scorer(self.scorer, allow_code_execution=self.allow_code_execution)


def check_search(
    searching: Searching, settings: Mapping[str, Any], others: Mapping[str, bool]
) -> None:
    """Check the options of a call with `--search`, before a model is loaded.

    Args:
        searching: the options of the search.
        settings: the options of sampling.
        others: options that cannot be combined with it -> whether they are given.

    Raises:
        OptionError: the strategy is unknown, an option cannot be combined with it, or one needs it.
    """
    if searching.search is None:
        if searching.any is not None:
            raise OptionError(
                f"{searching.any} is given without --search", hint="Give --search NAME as well"
            )
        return
    for name, given in others.items():
        if given:
            raise OptionError(f"{name} is given beside --search", hint="Leave one of them out")
    if "constraint" in settings:
        raise OptionError(
            "a grammar of the text is given beside --search", hint="Leave one of them out"
        )
    from outrider.engine.searches.searching import chosen

    chosen(searching.search, {})
