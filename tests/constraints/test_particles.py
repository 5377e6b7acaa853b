"""Particles follow the model's distribution over whole texts; token masking does not."""

import math
from collections import Counter
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from outrider.constraints.monte_carlo import particles as module
from outrider.constraints.monte_carlo.awrs import GrammarTest, Weighted
from outrider.constraints.monte_carlo.particles import Particles, systematic
from outrider.core.errors import LogitsError, OptionError
from outrider.core.types import Rows, Verdict
from outrider.drafters import NoDrafter
from outrider.models.tabular import TabularModel
from outrider.sampling import Sampler, SamplingParams
from outrider.sampling.checker import Checker, Checks
from outrider.sampling.walk import Walk
from outrider.testing.rigs import generation, letter, stage
from tests.constraints.automaton import Automaton
from tests.constraints.checking import END, language, locally_masked, probability
from tests.matrix import matrix

MODEL = TabularModel.random(vocab_size=5, order=2, seed=4, scale=0.8)
PROMPT = (1, 2)
TEXTS = [(1,), (1, 2, 3), (2, 1), (2, 4, 4, 1), (3,), (3, 3, 2)]
PROBS = {text: probability(MODEL, PROMPT, text) for text in TEXTS}
EVIDENCE = sum(PROBS.values())
POSTERIOR = {text: p / EVIDENCE for text, p in PROBS.items()}
SAMPLER = Sampler(SamplingParams(temperature=1.0, seed=0), end_ids=(END,))
MASKED = locally_masked(SAMPLER, MODEL, PROMPT, TEXTS)
TREE = Automaton(
    {
        0: {1: 1, 2: 2, 3: 3},
        1: {2: 4},
        4: {3: 5},
        2: {1: 5, 4: 6},
        6: {4: 7},
        7: {1: 5},
        3: {3: 8},
        8: {2: 5},
    },
    frozenset((1, 3, 5)),
    size=5,
)
"""The language of `TEXTS` as a grammar."""


def particles(
    count: int, seed: int = 0, *, checker: Checker | None = None, grammar: bool = False, **how: Any
) -> Particles:
    options = {"temperature": 1.0, "end_ids": (END,), "seed": seed, "max_new_tokens": 8}
    options |= {name: how.pop(name) for name in list(how) if name in ("top_k", "max_new_tokens")}
    generations = [generation(PROMPT, sample=i, **options) for i in range(count)]
    checks = Checks(checker or language(TEXTS), letter)
    tests = [GrammarTest(Walk(TREE.begin())) if grammar else checks for _ in range(count)]
    whole = stage(MODEL, NoDrafter())
    return Particles(stage=whole, generations=generations, tests=tests, **how)


def ran(*given: Any, **how: Any) -> Particles:
    run = particles(*given, **how)
    run.run()
    return run


def shares(run: Particles) -> dict[tuple[int, ...], float]:
    """The weight of each text."""
    found: dict[tuple[int, ...], float] = {}
    for one, weight in zip(run.particles, run.weights, strict=True):
        text = tuple(t for t in one.generation.output if t != END)
        found[text] = found.get(text, 0.0) + weight
    return found


def distance(found: dict[tuple[int, ...], float], true: dict[tuple[int, ...], float]) -> float:
    """Total variation."""
    return sum(abs(found.get(t, 0.0) - true.get(t, 0.0)) for t in found.keys() | true.keys()) / 2


@pytest.mark.method("awrs")
def test_particles_converge_to_the_posterior_and_masking_does_not() -> None:
    assert distance(MASKED, POSTERIOR) > 0.6  # otherwise the test shows nothing
    found = shares(ran(200, 3))
    assert found.keys() <= POSTERIOR.keys()
    assert distance(found, POSTERIOR) < 0.2


def test_exact_masses_converge_too_and_without_weights_particles_are_masked_samples() -> None:
    """The negative control: equal weights give the distribution of token masking."""
    run = ran(200, 3, grammar=True, exact=True)
    assert distance(shares(run), POSTERIOR) < 0.2
    equal = ran(200, 3, resample_below=0.0)
    counts = Counter(tuple(p.generation.output[:-1]) for p in equal.particles)
    unweighted = {text: number / 200 for text, number in counts.items()}
    assert distance(unweighted, MASKED) < 0.1 < 0.5 < distance(unweighted, POSTERIOR)


@pytest.mark.parametrize(("resample_below", "exact"), matrix([0.5, 1.0, 0.0], [False, True]))
def test_the_estimates_are_unbiased_with_and_without_resampling(
    resample_below: float, exact: bool
) -> None:
    """For each text, the mean over seeds of evidence times weight is its probability under the
    model."""
    assert not misses(resample_below=resample_below, exact=exact, grammar=exact)


def misses(seeds: int = 50, **how: Any) -> list[str]:
    """The texts of which the mean over seeds is more than 4.5 standard errors away, of those that
    are drawn often enough for an error to be known."""
    seen: dict[tuple[int, ...], list[float]] = {t: [] for t in TEXTS if POSTERIOR[t] > 0.03}
    totals: list[float] = []
    for seed in range(seeds):
        run = ran(5, seed, **how)
        totals.append(math.exp(run.log_evidence))
        for text, one in seen.items():
            one.append(totals[-1] * shares(run).get(text, 0.0))
    pairs = [*((str(t), one, PROBS[t]) for t, one in seen.items()), ("all", totals, EVIDENCE)]
    return [
        name
        for name, one, true in pairs
        if abs(fmean(one) - true) > 4.5 * stdev(one) / seeds**0.5 + 1e-12
    ]


def test_wrong_weights_fail_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule whose weights leave out the probability that was refused."""

    class Forgetful(Weighted):
        def __call__(self, draft: Any, view: Any) -> Verdict:
            verdict = super().__call__(draft, view)
            sample = view.sampler.sample
            self.steps[sample] = replace(self.steps[sample], log_weight=0.0)
            return verdict

    monkeypatch.setattr(module, "Weighted", Forgetful)
    assert misses(seeds=25)


def test_all_allowed_is_weight_one() -> None:
    free = Checker(lambda text: True, lambda text: True)
    run = ran(8, 1, checker=free)
    assert [p.log_weight for p in run.particles] == [0.0] * 8
    assert run.log_evidence == 0.0 and run.effective_size == pytest.approx(8.0)
    assert run.resampled == 0
    plain = [
        generation(PROMPT, sample=i, temperature=1.0, end_ids=(END,), seed=1, max_new_tokens=8)
        for i in range(8)
    ]
    from outrider.testing.rigs import finish, outputs

    assert outputs(finish(stage(MODEL, NoDrafter()), plain)) == outputs(
        [p.generation for p in run.particles]
    )


def test_one_particle_is_a_masked_sample_with_its_weight() -> None:
    run = ran(1, 5)
    [one] = run.particles
    [plain] = [generation(PROMPT, temperature=1.0, end_ids=(END,), seed=5, checker=language(TEXTS))]
    from outrider.testing.rigs import finish

    assert finish(stage(MODEL, NoDrafter()), [plain])[0].output == one.generation.output
    assert run.weights == [1.0] and run.log_evidence == one.log_weight < 0.0


def test_seeds_reproduce() -> None:
    def facts(run: Particles) -> list[tuple[tuple[int, ...], float]]:
        return [(tuple(p.generation.output), p.log_weight) for p in run.particles]

    runs = [ran(12, seed, resample_below=0.9) for seed in (1, 1, 2)]
    assert facts(runs[0]) == facts(runs[1]) != facts(runs[2])
    assert runs[0].resampled == runs[1].resampled > 0
    assert runs[0].calls == runs[1].calls > 0


def test_estimated_and_exact_masses_draw_the_same_tokens() -> None:
    options: dict[str, Any] = {"grammar": True, "resample_below": 0.0}
    one, other = ran(10, 4, **options), ran(10, 4, exact=True, **options)
    assert [p.generation.output for p in one.particles] == [
        p.generation.output for p in other.particles
    ]
    assert other.calls < one.calls


def test_forks_after_resampling_read_grammars_of_their_own() -> None:
    run = ran(30, 2, grammar=True, exact=True, resample_below=1.0)
    assert run.resampled > 1
    assert shares(run).keys() <= POSTERIOR.keys()
    assert all(p.generation.finish == "stop" for p in run.particles)


def test_truncation_is_part_of_the_model() -> None:
    """The posterior under top-k: texts that need another token have no probability."""
    run = ran(200, 1, top_k=3)
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=3, seed=0), end_ids=(END,))
    true = {}
    for text in TEXTS:
        p = 1.0
        for place, token in enumerate([*text, END]):
            rows = MODEL.logits_after([*PROMPT, *text[:place]])
            p *= float(sampler.probs(rows, list(text[:place]))[token])
        true[text] = p
    total = sum(true.values())
    assert distance(shares(run), {t: p / total for t, p in true.items()}) < 0.25


def test_a_critic_weighs_texts() -> None:
    """Its weight of the whole text counts, however it weighs the beginnings of it."""

    def critic(one: Any) -> float:
        text = [t for t in one.output if t != END]
        return 1.5 * (len(text) == 1) + (0.0 if not one.running else 0.3 * len(text))

    weighed = {t: p * math.exp(1.5 * (len(t) == 1)) for t, p in PROBS.items()}
    total = sum(weighed.values())
    run = ran(200, 3, critic=critic)
    assert distance(shares(run), {t: p / total for t, p in weighed.items()}) < 0.2
    assert run.log_evidence == pytest.approx(math.log(total), abs=0.4)


def test_a_critic_may_give_texts_up() -> None:
    def critic(one: Any) -> float:
        return -math.inf if one.output[0] == 3 else 0.0

    found = shares(ran(40, 3, critic=critic))
    assert {text for text, weight in found.items() if weight} <= {t for t in TEXTS if t[0] != 3}
    with pytest.raises(LogitsError, match="the critic gives every text weight 0"):
        ran(4, 3, critic=lambda one: -math.inf)
    with pytest.raises(OptionError, match="the critic returns nan"):
        ran(4, 3, critic=lambda one: math.nan)


def test_nothing_allowed_is_an_error_that_says_so() -> None:
    none = Checker(lambda text: False, lambda text: False, "none")
    with pytest.raises(LogitsError, match="no particle is left after 0 tokens: every token that"):
        ran(4, checker=none)
    with pytest.raises(LogitsError, match="each was refused 3 tokens at one place"):
        ran(4, checker=none, most=3)


def test_particles_that_give_up_are_counted() -> None:
    run = ran(40, 2, most=2)
    dead = [p for p in run.particles if p.log_weight == -math.inf]
    assert run.given_up >= len(dead) and run.given_up > 0


def test_the_limit_cuts_texts_which_keep_their_weights() -> None:
    """The distribution is then that of allowed beginnings."""
    run = ran(200, 2, max_new_tokens=1)
    reached = {t[:1] for t in TEXTS}
    row = torch.softmax(MODEL.logits_after(PROMPT), -1)
    total = sum(float(row[t[0]]) for t in reached)
    assert {str(p.generation.finish) for p in run.particles} == {"length"}
    assert distance(shares(run), {t: float(row[t[0]]) / total for t in reached}) < 0.1


def test_cancelled_particles_keep_text_and_weight() -> None:
    run = particles(6, 1)
    seen = 0

    def critic(one: Any) -> float:
        nonlocal seen
        seen += 1
        if seen == 6:
            run.cancel()
        return 0.0

    run.critic = critic
    run.run()
    assert run.steps == 1 and all(len(p.generation.output) == 1 for p in run.particles)
    assert "cancelled" in {str(p.generation.finish) for p in run.particles}
    assert sum(run.weights) == pytest.approx(1.0)


def test_logits_that_cannot_be_used_end_the_run() -> None:
    class Broken(TabularModel):
        def forward(self, segments: Any, want: Any) -> list[Rows]:
            return [Rows(rows.logits * math.nan) for rows in super().forward(segments, want)]

    run = particles(2)
    run.stage = replace(run.stage, model=Broken(MODEL.table))
    with pytest.raises(LogitsError, match="NaN"):
        run.run()


def test_systematic_resampling_draws_in_proportion() -> None:
    weights = [0.5, 0.0, 0.3, 0.2]
    sums = [0] * 4
    for i in range(1000):
        copies = systematic(weights, (i + 0.5) / 1000)
        assert sum(copies) == 4 and copies[1] == 0
        assert all(
            math.floor(4 * w) <= c <= math.ceil(4 * w) for w, c in zip(weights, copies, strict=True)
        )
        sums = [a + b for a, b in zip(sums, copies, strict=True)]
    assert [s / 4000 for s in sums] == pytest.approx(weights, abs=1e-3)
    assert systematic([1.0 - 1e-12, 0.0], 0.999999999999999) == [2, 0]
