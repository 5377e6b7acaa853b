"""The default strategy: who drafts, and how far, from what forwards cost on this machine.

Costs are measured once, when the models are loaded. Which source drafts, how long, and whether any
does, is then decided round by round from what was accepted (`policies/gain.py`). The text is that
of undrafted decoding in any case, so nothing here needs to be certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from outrider.decoding import generate
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, Qualified
from outrider.generation import Generation
from outrider.models.costs import measure_costs
from outrider.policies import CostCurve, ExpectedGain, Source
from outrider.policies.windows import Chances, best_windows, token_seconds
from outrider.protocols import Drafter, LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy, tier_names
from outrider.types import Prompt

DRAFTERS: dict[str, str] = {
    "auto": "whatever is expected to be fastest, decided while writing",
    "lookup": "copies from the text so far; no draft model",
    "model": "the draft model alone",
    "pyramid": "the draft model and every qualifier",
    "none": "undrafted decoding",
}

LOOKUP = Lookup(min_ngram=1)
"""Guesses after a single token too: the policy asks for them only where they pay."""

LOOKUP_CHANCES = {1: 0.25, 2: 0.45, 3: 0.55, 4: 0.7, 5: 0.85}
"""By length of the match, how often copied tokens were kept (greedy and sampled text of `tiny`)."""

FURTHER_TIER = 0.1
"""How much more a qualifier must promise before it takes part: its prompt has to be read, too."""

_COPY_SECONDS = 5e-6
_OVERHEAD_PROMPT, _OVERHEAD_ROUNDS = 16, 12
_LONGEST_COPY = 24
_DRAFT_WIDTHS, _DRAFT_LIMIT = (1, 2), 0.02
_QUALIFIER_WIDTHS, _QUALIFIER_LIMIT = (1, 2, 4, 8), 0.04


@dataclass(frozen=True, slots=True)
class Automatic:
    """Builds strategies that adapt, for one target and the models below it.

    Attributes:
        target: the model whose text is wanted.
        below: smaller models, the largest first; the last one drafts.
        chances: what is believed of them before they were tried.
        curve: the target's costs; measured when not given.
        overhead: seconds of a round beside forwards; measured when not given.
    """

    target: LanguageModel
    below: Sequence[LanguageModel] = ()
    chances: Chances = field(default_factory=Chances)
    curve: CostCurve | None = None
    overhead: float | None = None

    def strategy(self, kind: str = "auto") -> Strategy:
        """One of `DRAFTERS`; undrafted where the target's window has no room to measure in."""
        if kind == "none" or self.target.context_length < 3:
            return Strategy(target=self.target)
        verify = self.curve or measure_costs(self.target)
        if kind == "lookup" or not self.below:
            return self._built(LOOKUP, verify, _lookups())
        each = measure_costs(self.below[-1], _DRAFT_WIDTHS, limit=_DRAFT_LIMIT).seconds(1)
        draft = ModelDrafter(model=self.below[-1])
        if kind == "model":
            return self._built(draft, verify, (self._draft(each),))
        if kind == "pyramid":
            nest, source = self._nest(draft, each)
            return self._built(nest, verify, (source,))
        steady, sources = self._steady(draft, each, verify)
        line = Fallback(first=LOOKUP, second=steady)
        return self._built(line, verify, (*_lookups(), *sources))

    def _built(self, drafter: Drafter, verify: CostCurve, sources: tuple[Source, ...]) -> Strategy:
        overhead = self.overhead
        if overhead is None:
            overhead = round_overhead(self.target, verify)
        policy = ExpectedGain(verify=verify, sources=sources, overhead=overhead)
        return Strategy(target=self.target, drafter=drafter, policy=policy)

    def _steady(
        self, draft: ModelDrafter, each: float, verify: CostCurve
    ) -> tuple[Drafter, tuple[Source, ...]]:
        """The draft model, with the qualifier that promises most where one does."""
        best, chosen = 0.0, None
        for qualifier in self.below[:-1]:
            curve = _qualifier_costs(qualifier)
            windows = best_windows(verify, curve, each, self.chances, FURTHER_TIER)
            if len(windows.lengths) == 2 and windows.speed > best:
                best, chosen = windows.speed, (qualifier, curve)
        if chosen is None:
            return draft, (self._draft(each),)
        nest, source = self._level(draft, each, *chosen, name="qualifier")
        return Bypass(qualified=nest), (self._draft(each), source)

    def _nest(self, draft: ModelDrafter, each: float) -> tuple[Drafter, Source]:
        """All models, one inside the other."""
        drafter: Drafter = draft
        source = self._draft(each)
        names = tier_names(len(self.below) - 1)
        for qualifier, name in reversed(list(zip(self.below[:-1], names, strict=True))):
            curve = _qualifier_costs(qualifier)
            drafter, source = self._level(drafter, source.seconds, qualifier, curve, name=name)
        return drafter, source

    def _level(
        self,
        drafter: Drafter,
        each: float,
        qualifier: LanguageModel,
        curve: CostCurve,
        *,
        name: str,
    ) -> tuple[Qualified, Source]:
        """A qualifier over `drafter`, and what it is as a source of drafts itself."""
        inner = Source(name=drafter.name, seconds=each, accept=self.chances.inner)
        nest = Qualified(
            drafter=drafter,
            qualifier=qualifier,
            policy=ExpectedGain(verify=curve, sources=(inner,)),
            name=name,
        )
        seconds = token_seconds(curve, each, self.chances.inner)
        return nest, Source(name=name, seconds=seconds, accept=self.chances.qualifier)

    def _draft(self, each: float) -> Source:
        return Source(name="draft", seconds=each, accept=self.chances.draft)


def round_overhead(target: LanguageModel, verify: CostCurve) -> float:
    """Seconds that an undrafted round takes beside the forward and the choice of its token.

    The choice is left out because every token has one, drafted or not. Median over a short text
    that nobody reads.
    """
    prompt = Prompt(token_ids=(0,) * min(_OVERHEAD_PROMPT, target.context_length - 2))
    sampler = Sampler(SamplingParams(max_new_tokens=_OVERHEAD_ROUNDS + 1, seed=0))
    generation = Generation(Request(prompt, sampler))
    for _ in generate(Strategy(target=target).stage, [generation]):
        pass
    counters, times = generation.counters, generation.token_times
    rounds = [b - a for a, b in pairwise(times)]
    if not rounds:
        return 0.0
    choice = counters.seconds.get("accept", 0.0) / counters.rounds
    forward = counters.seconds.get("verify", 0.0) / counters.rounds
    return max(median(rounds) - choice - min(forward, verify.seconds(1)), 0.0)


def _qualifier_costs(qualifier: LanguageModel) -> CostCurve:
    return measure_costs(qualifier, _QUALIFIER_WIDTHS, limit=_QUALIFIER_LIMIT)


def _lookups() -> tuple[Source, ...]:
    return tuple(
        Source(
            name=origin,
            seconds=_COPY_SECONDS,
            accept=LOOKUP_CHANCES[n],
            longest=_LONGEST_COPY,
            lucky=True,
        )
        for n, origin in LOOKUP.origins.items()
    )
