"""Families of models with a known truth, the nests built from them, and a way to run them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from outrider.acceptance import Match
from outrider.core.counters import Counters
from outrider.core.types import Prompt
from outrider.decoding import Lane, Stage, generate
from outrider.decoding.generation import Generation
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.models.tabular import TabularModel
from outrider.policies import CostCurve, ExpectedGain, FixedLength, Source
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams


@dataclass(frozen=True)
class Family:
    """Four models, each a noisy copy of the one above it."""

    target: LanguageModel
    qualifier: LanguageModel
    small: LanguageModel
    draft: LanguageModel


def tabular_family(vocab_size: int = 7, order: int = 2, seed: int = 0) -> Family:
    def near(model: TabularModel, n: int) -> TabularModel:
        return TabularModel.random(
            vocab_size=vocab_size, order=order, seed=10 * seed + n, near=model, distance=0.7
        )

    target = TabularModel.random(vocab_size=vocab_size, order=order, seed=10 * seed)
    qualifier = near(target, 1)
    small = near(qualifier, 2)
    return Family(target, qualifier, small, near(small, 3))


def nests(family: Family, inner: Callable[[], AcceptanceRule] = Match) -> dict[str, Drafter]:
    """The drafters of the matrix, by name."""
    two = ModelDrafter(model=family.draft)
    three = Qualified(drafter=two, qualifier=family.qualifier, rule=inner(), policy=FixedLength(3))
    low = Qualified(
        drafter=two, qualifier=family.small, rule=inner(), policy=FixedLength(2), name="low"
    )
    four = Qualified(drafter=low, qualifier=family.qualifier, rule=inner(), policy=FixedLength(4))
    lookup = Lookup(max_ngram=3, min_ngram=1)
    return {
        "none": NoDrafter(),
        "two": two,
        "three": three,
        "four": four,
        "lookup": lookup,
        "lookup_three": replace(three, drafter=lookup),
        "fallback": Fallback(first=Lookup(max_ngram=2, occurrence="first"), second=two),
        "fallback_three": replace(three, drafter=Fallback(first=lookup, second=two)),
        "bypass": Fallback(first=replace(lookup, min_ngram=2), second=Bypass(qualified=three)),
    }


GAINFUL = CostCurve.of({1: 1.0, 8: 1.5, 32: 4.0})


def adaptive(nest: str) -> ExpectedGain:
    """A policy for one of `nests` that turns each source off at times."""
    lucky = [Source(name=f"lookup{n}", accept=0.3, lucky=True) for n in (1, 2, 3)]
    draft = Source(name="draft", seconds=0.2)
    qualifier = Source(name="qualifier", seconds=0.3, accept=0.7)
    steady = {
        "two": [draft],
        "lookup": [],
        "fallback": [draft],
        "bypass": [draft, qualifier],
    }.get(nest, [qualifier])
    return ExpectedGain(verify=GAINFUL, sources=(*lucky, *steady), probe_after=3)


def stage(
    target: LanguageModel,
    drafter: Drafter,
    rule: AcceptanceRule | None = None,
    window: int = 6,
    policy: DraftPolicy | None = None,
) -> Stage:
    rule = rule or Match()
    return Stage(
        name="target",
        model=target,
        drafter=drafter.bind(rule.needs, 1),
        rule=rule,
        policy=policy or FixedLength(window),
    )


def generation(
    prompt: Sequence[int] | Prompt, *, end_ids: Sequence[int] = (), sample: int = 0, **options
) -> Generation:
    read = prompt if isinstance(prompt, Prompt) else Prompt(token_ids=tuple(prompt))
    params = SamplingParams.of(**{"max_new_tokens": 40, "seed": 5, **options})
    sampler = Sampler(params, prompt_ids=read.token_ids, end_ids=end_ids, sample=sample)
    return Generation(Request(read, sampler))


def undrafted(whole: Stage) -> Stage:
    """The same target without a drafter."""
    return replace(whole, drafter=NoDrafter(), policy=FixedLength(1))


def run(
    stage: Stage,
    prompts: Iterable[Sequence[int] | Prompt],
    *,
    previous: Sequence[Lane | None] | None = None,
    **options,
) -> list[Generation]:
    return finish(stage, [generation(p, **options) for p in prompts], previous)


def finish(
    stage: Stage,
    generations: list[Generation],
    previous: Sequence[Lane | None] | None = None,
) -> list[Generation]:
    """Run these in one batch to their ends."""
    for _ in generate(stage, generations, previous):
        pass
    return generations


def samples(
    stage: Stage, prompt: Sequence[int] | Prompt, count: int, **options
) -> list[Generation]:
    """Samples of one prompt, in one batch: they share what is read of it."""
    read = prompt if isinstance(prompt, Prompt) else Prompt(token_ids=tuple(prompt))
    return finish(stage, [generation(read, sample=i, **options) for i in range(count)])


def next_turn(
    whole: Stage, prompt: Sequence[int], kept: int | None = None, **options
) -> tuple[Generation, Generation]:
    """A text and one that goes on from it, with the first one's caches and states; it is that of
    an undrafted start."""
    [first] = run(whole, [prompt], **options)
    turn = (*prompt, *first.output[:kept], 4, 4)
    [second] = run(whole, [turn], previous=[first.lane], **options)
    [fresh] = run(undrafted(whole), [turn], **options)
    assert second.output == fresh.output
    return first, second


def check_counters(counters: Counters, written: int) -> None:
    """I6, and that every draft is booked under its origin."""
    assert counters.tokens == written
    assert sum(counters.sources.values()) == written
    assert counters.accepted == sum(counters.accepted_at)
    assert counters.drafted == sum(counters.drafted_at)
    assert counters.changed == 0
    assert counters.rounds <= max(written, 1)
    tallies = counters.tallies.values()
    assert sum(t.drafted for t in tallies) == counters.drafted
    assert sum(t.accepted for t in tallies) == counters.accepted


def outputs(generations: Sequence[Generation]) -> list[tuple[int, ...]]:
    return [tuple(g.output) for g in generations]


PROMPTS = [(1, 2, 3), (4,), (5, 5, 5, 5, 5, 5), (6, 1), (2, 4, 6, 1, 3, 5, 2, 4)]

SAMPLINGS = {
    "greedy": {},
    "t0.7": {"temperature": 0.7},
    "t1.3": {"temperature": 1.3},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_k": {"temperature": 1.0, "top_k": 3},
    "min_p": {"temperature": 1.0, "min_p": 0.2},
    "penalties": {
        "temperature": 0.9,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
    },
    "greedy_penalties": {"repetition_penalty": 1.4, "frequency_penalty": 0.5},
}
