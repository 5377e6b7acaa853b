"""Models with known probabilities, and helpers to run drafters and rules with them.

The vocabulary has seven tokens; a table gives the next token after the last two. Drafts of any kind
are therefore accepted and rejected within a few tokens, and a run takes milliseconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outrider.acceptance import Match
from outrider.core.counters import Counters
from outrider.core.types import Prompt
from outrider.decoding import SequenceState, Stage, generate
from outrider.decoding.generation import Generation
from outrider.drafters import NoDrafter
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import AcceptanceRule, Drafter, DraftPolicy, LanguageModel, Request
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.checker import Checks
from outrider.sampling.walk import Grammar, Walk

PROMPTS: list[tuple[int, ...]] = [
    (1, 2, 3),
    (4,),
    (5, 5, 5, 5, 5, 5),
    (6, 1),
    (2, 4, 6, 1, 3, 5, 2, 4),
]

SAMPLINGS: dict[str, dict[str, Any]] = {
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


@dataclass(frozen=True)
class Family:
    """Four models, each a noisy copy of the previous one."""

    target: LanguageModel
    qualifier: LanguageModel
    small: LanguageModel
    draft: LanguageModel


def tabular_family(vocab_size: int = 7, order: int = 2, seed: int = 0) -> Family:
    """Return a family of models with random tables."""

    def near(model: TabularModel, n: int) -> TabularModel:
        return TabularModel.random(
            vocab_size=vocab_size, order=order, seed=10 * seed + n, near=model, distance=0.7
        )

    target = TabularModel.random(vocab_size=vocab_size, order=order, seed=10 * seed)
    qualifier = near(target, 1)
    small = near(qualifier, 2)
    return Family(target, qualifier, small, near(small, 3))


def stage(
    target: LanguageModel,
    drafter: Drafter,
    rule: AcceptanceRule | None = None,
    window: int = 6,
    policy: DraftPolicy | None = None,
) -> Stage:
    """Return a target with a drafter; by default the rule is `Match` and drafts have a fixed
    length.
    """
    rule = rule or Match()
    return Stage(
        name="target",
        model=target,
        drafter=drafter.bind(rule.needs, 1),
        rule=rule,
        policy=policy or FixedLength(window),
    )


def undrafted(whole: Stage) -> Stage:
    """Return the same target with the drafter that proposes nothing."""
    return replace(whole, drafter=NoDrafter(), policy=FixedLength(1))


def generation(
    prompt: Sequence[int] | Prompt,
    *,
    end_ids: Sequence[int] = (),
    sample: int = 0,
    grammar: Grammar | None = None,
    **options: Any,
) -> Generation:
    """Return a request with these `SamplingParams`; the defaults are 40 tokens and seed 5. Its text
    follows `grammar`."""
    read = prompt if isinstance(prompt, Prompt) else Prompt(token_ids=tuple(prompt))
    params = SamplingParams.of(**{"max_new_tokens": 40, "seed": 5, **options})
    walk = None if grammar is None else Walk(grammar.begin())
    checks = None if params.checker is None else Checks(params.checker, letter)
    sampler = Sampler(
        params,
        prompt_ids=read.token_ids,
        end_ids=end_ids,
        sample=sample,
        walk=walk,
        checks=checks,
    )
    return Generation(Request(read, sampler))


def letter(token: int) -> bytes:
    """Return the letter that a token of these models stands for: `a` for 0, `b` for 1."""
    return bytes([ord("a") + token])


def run(
    stage: Stage,
    prompts: Iterable[Sequence[int] | Prompt],
    *,
    previous: Sequence[SequenceState | None] | None = None,
    **options: Any,
) -> list[Generation]:
    """Generate after these prompts, in one batch; `options` as in `generation`."""
    return finish(stage, [generation(p, **options) for p in prompts], previous)


def finish(
    stage: Stage,
    generations: list[Generation],
    previous: Sequence[SequenceState | None] | None = None,
) -> list[Generation]:
    """Run these requests in one batch until they end."""
    for _ in generate(stage, generations, previous):
        pass
    return generations


def samples(
    stage: Stage, prompt: Sequence[int] | Prompt, count: int, **options: Any
) -> list[Generation]:
    """Return the samples of one prompt, in one batch: the prompt is read once."""
    read = prompt if isinstance(prompt, Prompt) else Prompt(token_ids=tuple(prompt))
    return finish(stage, [generation(read, sample=i, **options) for i in range(count)])


def outputs(generations: Sequence[Generation]) -> list[tuple[int, ...]]:
    """Return the generated token ids of each request."""
    return [tuple(g.output) for g in generations]


def check_counters(counters: Counters, written: int) -> None:
    """Check that the counters of a request with rule `Match` add up, and that every draft has an
    origin. Raises `AssertionError`."""
    assert counters.tokens == written, "tokens are counted otherwise than written"
    assert sum(counters.sources.values()) == written, "sources do not add up"
    assert counters.accepted == sum(counters.accepted_at), "accepted tokens do not add up"
    assert counters.drafted == sum(counters.drafted_at), "drafted tokens do not add up"
    assert counters.changed == 0, "tokens were changed"
    assert counters.rounds <= max(written, 1), "a round wrote nothing"
    tallies = counters.tallies.values()
    assert sum(t.drafted for t in tallies) == counters.drafted, "drafts lack an origin"
    assert sum(t.accepted for t in tallies) == counters.accepted, "accepted lack an origin"
