"""Nests of drafters over families of models with a known truth."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from outrider.acceptance import Match
from outrider.decoding import Session, Stage
from outrider.decoding.generation import Generation
from outrider.drafters import Bypass, Fallback, Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.policies import CostSurface, ExpectedGain, FixedLength, Source
from outrider.protocols import AcceptanceRule, Drafter
from outrider.testing.rigs import (
    PROMPTS,
    SAMPLINGS,
    Family,
    check_counters,
    finish,
    generation,
    outputs,
    run,
    samples,
    stage,
    tabular_family,
    undrafted,
)

__all__ = [
    "PROMPTS",
    "SAMPLINGS",
    "Family",
    "adaptive",
    "check_counters",
    "finish",
    "generation",
    "nests",
    "next_turn",
    "outputs",
    "preempted",
    "run",
    "samples",
    "stage",
    "tabular_family",
    "undrafted",
]


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


GAINFUL = CostSurface.of({1: 1.0, 8: 1.5, 32: 4.0})


def adaptive(nest: str) -> ExpectedGain:
    """A policy for one of `nests` that turns each source off at times."""
    opportunistic = [Source(name=f"lookup{n}", accept=0.3, opportunistic=True) for n in (1, 2, 3)]
    draft = Source(name="draft", seconds=0.2)
    qualifier = Source(name="qualifier", seconds=0.3, accept=0.7)
    steady = {
        "two": [draft],
        "lookup": [],
        "fallback": [draft],
        "bypass": [draft, qualifier],
    }.get(nest, [qualifier])
    return ExpectedGain(verify=GAINFUL, sources=(*opportunistic, *steady), probe_after=3)


def next_turn(
    whole: Stage, prompt: Sequence[int], kept: int | None = None, **options
) -> tuple[Generation, Generation]:
    """A text and one that goes on from it, with the first one's caches and states; it is that of
    an undrafted start."""
    [first] = run(whole, [prompt], **options)
    turn = (*prompt, *first.output[:kept], 4, 4)
    [second] = run(whole, [turn], previous=[first.sequence], **options)
    [fresh] = run(undrafted(whole), [turn], **options)
    assert second.output == fresh.output
    return first, second


def preempted(
    whole: Stage, prompts: Sequence[tuple[int, ...]], *, temperature: float, max_new_tokens: int
) -> list[Generation]:
    """Answers in a session in which prompts come in parts, and the first request leaves and comes
    again twice; every second round has few rows of drafts."""
    made = [
        generation(prompt, temperature=temperature, max_new_tokens=max_new_tokens)
        for prompt in prompts
    ]
    session = Session(whole)
    session.add(made[:2])
    session.add(made[2:], chunk=2)
    for turn in range(60):
        if turn in (3, 6):
            session.preempt(made[0])
            session.add(made[:1], chunk=3 if turn == 3 else None)
        session.step(draft_rows=3 if turn % 2 else None)
        if not session.pending:
            break
    return made
