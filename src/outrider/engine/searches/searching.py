"""Search strategies on a generator: `Generator.search`."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from outrider.core.checks import shown
from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.decoding import Generation
from outrider.engine.requests import ModelDefaults, params_for
from outrider.guidance.recipe import Recipe
from outrider.inputs.given import GivenDocuments, GivenImages, GivenPrompt, TextCodec
from outrider.policies.guard import Mode
from outrider.sampling import SamplingParams
from outrider.strategy import Strategy
from outrider.strategy.guiding import check_contrast

if TYPE_CHECKING:
    from outrider.search import Limits, Scorer, Search, SearchResult
    from outrider.search.records import Records


class Searching(Protocol):
    """What a generator has besides `search`; it is mixed into `Generator`."""

    tokenizer: TextCodec | None
    defaults: ModelDefaults
    context_length: int | None
    _guarding: Mode
    guidance: Recipe | None

    def strategy_for(self, params: SamplingParams) -> Strategy:
        """Build the strategy for requests with these parameters."""
        ...

    def prompt(
        self,
        prompt: GivenPrompt,
        *,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
    ) -> Prompt:
        """Read a prompt."""
        ...

    def generation(self, prompt: Prompt, params: SamplingParams, sample: int = 0) -> Generation:
        """Make the record of one request."""
        ...

    @cached_property
    def _records(self) -> "dict[str, Records]":
        """By strategy: what its searches have shown about drafts."""
        return {}

    def search(
        self,
        strategy: "str | Search",
        prompt: GivenPrompt,
        *,
        scorer: "Scorer | Callable[[str], float] | None" = None,
        budget: "Limits | int | None" = None,
        cancelled: Callable[[], bool] = lambda: False,
        prompt_rows: Callable[[], int] | None = None,
        images: GivenImages = None,
        documents: GivenDocuments = None,
        contrast: GivenPrompt | None = None,
        **options: JsonValue,
    ) -> "SearchResult":
        """Write several texts or branches of one prompt, and return the best ones with scores.

        Args:
            strategy: a name with options, such as `beam(num_beams=4)`, or an object of a subclass
                of `outrider.search.Search`; docs/methods.md lists the names.
            prompt: as in `generate`.
            scorer: judges texts: a function of a text that returns a number, or an object with
                `score` (`outrider.search.Scorer`).
            budget: most rows that the model computes after the prompt, or several limits
                (`outrider.search.Limits`). What is found before is the result.
            cancelled: asked before each forward whether to end.
            prompt_rows: asked before each forward over the prompt how many tokens it may read;
                None: the prompt is read at once. The result is the same.
            images: images of the prompt.
            documents: documents before the prompt.
            contrast: another prompt for the same answer, for guidance that compares two.
            options: options of the strategy, and of `generate`, such as `max_new_tokens`.

        Raises:
            OptionError: the strategy or an option is unknown, or something is missing.
            ScorerError: the scorer failed before anything was found.
            SearchStoppedError: a limit was reached before anything was found.
        """
        from outrider.search import FunctionScorer, Limits, Scorer, Task, run_search
        from outrider.search.account import Account
        from outrider.search.records import Records

        made, name, sampling = chosen(strategy, options)
        params = self.defaults.params(sampling)
        for option in ("stop", "stopping_criteria"):
            if sampling.get(option) and not (made.reads_stops and option == "stop"):
                raise OptionError(
                    f"{name} does not end texts at {option}",
                    hint="Give stop_token_ids, or leave it out",
                )
        if params.constraint is not None or params.checker is not None:
            raise OptionError(
                "a search does not follow a constraint", hint="Use generate, or leave it out"
            )
        used = self.strategy_for(params)
        read = self.prompt(prompt, images=images, documents=documents, contrast=contrast)
        check_contrast([read], used.target, self.guidance)
        params = params_for(
            read,
            params,
            used.target,
            defaults=self.defaults,
            given=sampling,
            context_length=self.context_length,
        )
        if scorer is not None and not isinstance(scorer, Scorer):
            if not callable(scorer):
                raise OptionError(
                    f"scorer is {shown(scorer)}",
                    hint="Give a function of a text, or outrider.search.scorers.named.make_scorer",
                )
            scorer = FunctionScorer(scorer)
        limits = Limits() if budget is None else budget
        limits = Limits(tokens=limits) if isinstance(limits, int) else limits
        if not isinstance(limits, Limits):
            raise OptionError(
                f"budget is {shown(limits)}", hint="Give a number of tokens, or Limits"
            )
        fresh = Records(make_guard=lambda: used.guard(self._guarding))
        task = Task(
            stage=used.stage,
            request=self.generation(read, params).request,
            account=Account(limits=limits, cancelled=cancelled),
            codec=self.tokenizer,
            scorer=scorer,
            records=self._records.setdefault(name, fresh),
            prompt_rows=prompt_rows,
        )
        return run_search(made, task, name)


def chosen(
    strategy: "str | Search", options: dict[str, JsonValue]
) -> tuple["Search", str, dict[str, JsonValue]]:
    """Return the strategy with its name, and the options that are not its own.

    Raises:
        OptionError: its name or an option is unknown.
    """
    from outrider.search import Search
    from outrider.strategy.catalogue import record

    if isinstance(strategy, Search):
        return strategy, type(strategy).__name__, {**strategy.sampling, **options}
    if not isinstance(strategy, str):
        raise OptionError(
            f"the strategy of a search is {shown(strategy)}",
            hint="Give a name, or an object of a subclass of outrider.search.Search",
        )
    parsed = Expression.parse(strategy, "search")
    if parsed.inner:
        raise OptionError(
            f"search {parsed.name!r} combines no other methods",
            hint=f"Write {parsed.name}(option=value)",
        )
    found = record("search", parsed.name)
    own = {name: value for name, value in options.items() if name in found.options}
    rest = {name: value for name, value in options.items() if name not in found.options}
    made = found.build({**parsed.options, **own})
    assert isinstance(made, Search)
    return made, parsed.name, {**made.sampling, **rest}
