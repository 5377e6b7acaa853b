"""SWIFT: the target drafts with a subset of its layers, found by a search during generation."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import Budget, Draft, IntArray, Rows, as_ids
from outrider.drafters.given import Given
from outrider.drafters.layers.layer_search import LayerSetSearch, SearchSettings
from outrider.drafters.layers.layer_subset import (
    LayerSubsetDrafter,
    LayerSubsetState,
    full_cache,
    layer_subset_priors,
)
from outrider.drafters.method import DrafterMethod
from outrider.protocols import Drafter, DrafterState, LanguageModel, Request, Segment
from outrider.protocols.method import Paper, Value

_FORMAT = 1


@dataclass(slots=True)
class SwiftState(LayerSubsetState):
    """One request; `key` identifies its text for the search."""

    key: Hashable = field(default_factory=object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swift(LayerSubsetDrafter):
    """SWIFT (Xia et al. 2024, arXiv 2410.06916): layers of the target are left out for drafting. A
    search during generation selects them, with the generated text as the reference.

    A try is one forward of a candidate set over the first generated tokens (`context`, the paper's
    W, and one more), after the prompt as computed by all layers. Its score is the share of these
    tokens that the set would have drafted. The paper compares best tokens; here the set makes the
    same choice as in a draft, so scores are also valid for sampled text. One try follows each round
    with a draft, for one request of the batch, until the search ends; after that, the search costs
    nothing. During the search, the prompt's rows of that request are stored twice.

    The paper drafts up to 25 tokens, and a tree of the best tokens around its chain. Here drafts
    are as deep as the budget allows, end where the probability of the best token is below
    `confidence`, and are chains unless `growth` is given: `Spine()` is the paper's tree.

    Attributes:
        confidence: 0.8 in the paper; 0 never ends a draft.
        settings: of the search.
        search: the state of the search, shared by all requests and kept across turns. None creates
            one.

    Raises:
        StrategyError: a model that cannot leave out layers.
        OptionError: a model with too few layers for that.
    """

    confidence: float | None = 0.8
    name: str = "swift"
    settings: SearchSettings = field(default_factory=SearchSettings)
    search: LayerSetSearch = None  # pyright: ignore[reportAssignmentType]

    learns = True
    """The set depends on the texts of other requests."""

    def __post_init__(self) -> None:
        LayerSubsetDrafter.__post_init__(self)
        if self.search is None:
            search = LayerSetSearch(self.layered.num_layers, self.settings)
            object.__setattr__(self, "search", search)
        self.part(self.search.layers)

    # -- serialization of the search --------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the best set and the progress of the search as JSON."""
        saved = {"format": _FORMAT, "model": self._fingerprint, **self.search.to_dict()}
        Path(path).write_text(json.dumps(saved) + "\n", encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Continue from a file that `save` wrote.

        Raises:
            OptionError: the file cannot be read, or belongs to another model.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} is not a saved set of layers: {error}") from error
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise OptionError(
                f"{path} is not a saved set of layers", hint="Give a file that Swift.save wrote"
            )
        if saved.get("model") != self._fingerprint:
            raise OptionError(
                f"the layers in {path} were found for another model",
                hint="Leave the file out to search again",
            )
        self.search.restore(saved)

    @property
    def _fingerprint(self) -> str:
        return self.model.info.fingerprint

    # -- protocol methods -------------------------------------------------------------------

    def _state(self, request: Request) -> SwiftState:
        state = LayerSubsetDrafter._state(self, request)
        return SwiftState(request, state.cache)

    def _propose(
        self, states: Sequence[DrafterState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        return self.draft(self.search.layers, states, tails, budgets, self.confidence)

    def commit(self, states: Sequence[DrafterState], tokens: Sequence[IntArray]) -> None:
        """Drop the draft rows; if there is enough text, try another set."""
        LayerSubsetDrafter.commit(self, states, tokens)
        if self.search.done:
            self.search.prompt = None
            return
        enough = self.settings.context + 1
        ready = [s for s in states if s.drafted and len(s.request.output) >= enough]
        if ready:
            self._try(ready[0])
        for state in states:
            state.drafted = False

    # -- one try ----------------------------------------------------------------------------

    def _try(self, state: SwiftState) -> None:
        if state.key is not self.search.key:
            prompt = full_cache(state).fork()
            prompt.truncate(len(prompt.text) - len(state.request.output))
            self.search.begin(state.key, prompt)
        bits = self.search.propose()
        self.search.note(bits, self._score(state, self.part(self.search.layers_of(bits)).model))

    def _score(self, state: SwiftState, model: LanguageModel) -> float:
        """Share of the first generated tokens that `model` would have drafted."""
        sampler, count = state.request.sampler, self.settings.context
        written = state.request.output[: count + 1]
        assert self.search.prompt is not None
        cache = self.layered.borrow(self.search.prompt)
        segment = Segment(cache, as_ids(written[:-1]))
        [rows] = model.forward([segment], [np.arange(-1, count)])
        state.counters.forwards += 1
        if sampler.params.temperature == 0 and all(sampler.plain(i) for i in (0, count)):
            return float(np.mean(_best(rows) == as_ids(written)))
        right = 0
        for i, token in enumerate(written):
            try:
                right += sampler.choose(rows.logits[i], written[:i]) == token
            except LogitsError:
                return 0.0
        return right / len(written)


def _best(rows: Rows) -> IntArray:
    return rows.logits.float().cpu().numpy().argmax(axis=-1)  # numpy starts no threads here


def _make(given: Given, inner: Sequence[Drafter], options: Mapping[str, Value]) -> Swift:
    return Swift(model=given.target, **options)  # pyright: ignore[reportArgumentType]


METHOD = DrafterMethod(
    name="swift",
    cls=Swift,
    summary="the target with fewer layers; a search during decoding selects them",
    paper=Paper("SWIFT", "2410.06916"),
    memory="none: weights and cache are the target's",
    make=_make,
    priors=layer_subset_priors,
    layered=True,
)
