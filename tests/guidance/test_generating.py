"""Guidance by calls of a generator: other prompts, constraints, particles and searches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

import outrider
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.engine.generator import Generator
from outrider.guidance.classifier_free import ClassifierFree
from outrider.inputs.given import GivenPrompt
from outrider.protocols import Segment
from outrider.sampling.constraint import Constraint

PROMPT, OTHER = "Once upon a time", "The dog"
SHORT = {"max_new_tokens": 12, "temperature": 0.0}


@pytest.fixture(scope="module")
def guided() -> Generator:
    return outrider.load("tiny", dtype="float32", threads=1, drafter="lookup", guidance=1.7)


@pytest.fixture(scope="module")
def plain() -> Generator:
    return outrider.load("tiny", dtype="float32", threads=1, mode="none")


def greedy(plain: Generator, prompt: str, other: str, count: int) -> tuple[int, ...]:
    """The guided text, with both prompts read anew for each token."""
    codec, model, text = plain.tokenizer, plain.strategy.target, list[int]()
    assert codec is not None
    while len(text) < count and text[-1:] != [model.info.end_ids[0]]:
        rows: list[torch.Tensor] = []
        for given in (prompt, other):
            [cache] = model.start([Prompt(token_ids=(*codec.encode(given), *text))])
            [found] = model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
            rows.append(found.logits[0].double())
        text.append(int((rows[1] + 1.7 * (rows[0] - rows[1])).argmax()))
    return tuple(text)


def test_every_call_reads_the_other_prompt(guided: Generator, plain: Generator) -> None:
    expected = greedy(plain, PROMPT, OTHER, 12)
    assert guided.generate(PROMPT, contrast=OTHER, **SHORT).token_ids == expected
    assert guided.generate(PROMPT, **SHORT).token_ids != expected
    stream = guided.stream(PROMPT, contrast=OTHER, **SHORT)
    assert "".join(stream) and stream.result.token_ids == expected
    generation, rounds = guided.start(PROMPT, contrast=OTHER, **SHORT)
    for _ in rounds:
        pass
    assert tuple(generation.output) == expected
    read = guided.prompt(PROMPT, contrast=OTHER)
    assert read.contrast == guided.prompt(OTHER)
    assert guided.generate(read, **SHORT).token_ids == expected
    assert guided.generate(PROMPT, contrast=guided.prompt(OTHER), **SHORT).token_ids == expected


def test_a_batch_has_one_for_each_prompt_or_none(guided: Generator) -> None:
    several = guided.generate([PROMPT, PROMPT, OTHER], contrast=[OTHER, None, PROMPT], **SHORT)
    alone = [
        guided.generate(PROMPT, contrast=OTHER, **SHORT),
        guided.generate(PROMPT, **SHORT),
        guided.generate(OTHER, contrast=PROMPT, **SHORT),
    ]
    assert [one.token_ids for one in several] == [one.token_ids for one in alone]
    for wrong, words in (([OTHER], "1 are given"), (OTHER, "one text is given")):
        with pytest.raises(OptionError, match=f"2 prompts are given, but {words} as contrast"):
            guided.generate([PROMPT, PROMPT], contrast=wrong)


def test_it_is_refused_where_nothing_reads_it(plain: Generator) -> None:
    from outrider.strategy.guiding import Guidance

    amateur = outrider.load("tiny", dtype="float32", threads=1, mode="none").strategy.target
    by_amateur = outrider.load(
        "tiny",
        dtype="float32",
        threads=1,
        mode="none",
        guidance=Guidance.contrastive(amateur=amateur),
    )
    for model, why in ((plain, "the model is not guided"), (by_amateur, "contrastive reads none")):
        for call in (
            lambda m: m.generate(PROMPT, contrast=OTHER),
            lambda m: m.stream(PROMPT, contrast=OTHER),
            lambda m: m.search("beam(num_beams=2)", PROMPT, contrast=OTHER),
            lambda m: m.generate(replace(m.prompt(PROMPT), contrast=m.prompt(OTHER))),
            lambda m: m.sample_constrained(
                PROMPT, contrast=OTHER, constraint=Constraint.regex("[a-c]{3}")
            ),
        ):
            with pytest.raises(OptionError, match=f"{why}.*choose guidance .*classifier-free"):
                call(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(ClassifierFree):
    """Compares each text with the one that says `OTHER`."""

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        return OTHER if isinstance(prompt, str) else None


def test_a_method_may_derive_it_and_a_given_one_wins(plain: Generator) -> None:
    model = outrider.load(
        "tiny", dtype="float32", threads=1, mode="none", guidance=Derived(scale=1.7)
    )
    expected = greedy(plain, PROMPT, OTHER, 12)
    assert model.generate(PROMPT, **SHORT).token_ids == expected
    assert model.generate(PROMPT, contrast="A cat", **SHORT).token_ids != expected


def test_a_constraint_holds_after_the_mix(guided: Generator, plain: Generator) -> None:
    rule = Constraint.regex("(red|green|blue|a dog|a cat|the sea){1,3}")
    given = {"constraint": rule, "max_new_tokens": 12, "temperature": 0.0}
    found = guided.generate(PROMPT, contrast=OTHER, **given)
    bare = outrider.load("tiny", dtype="float32", threads=1, mode="none", guidance=1.7)
    assert bare.generate(PROMPT, contrast=OTHER, **given).token_ids == found.token_ids
    assert found.finish_reason == "stop" and found.text
    assert found.guidance == 1.7
    others = [bare.generate(prompt, **given).text for prompt in (PROMPT, OTHER)]
    unguided = plain.generate(PROMPT, **given).text
    assert any(found.text != other for other in (*others, unguided))


def test_particles_are_drawn_from_the_mixed_distribution(
    guided: Generator, plain: Generator
) -> None:
    """With one letter to choose, the estimate of the allowed mass is exact."""
    rule = Constraint.regex("[ABC]")
    found = guided.sample_constrained(
        PROMPT, contrast=OTHER, constraint=rule, particles=2, seed=1, legal_mass="exact"
    )
    same = guided.sample_constrained(
        PROMPT, contrast=PROMPT, constraint=rule, particles=2, seed=1, legal_mass="exact"
    )
    unguided = plain.sample_constrained(
        PROMPT, constraint=rule, particles=2, seed=1, legal_mass="exact"
    )
    assert same.log_evidence == pytest.approx(unguided.log_evidence, abs=1e-3)
    assert found.log_evidence != pytest.approx(unguided.log_evidence, abs=1e-3)


def mixed_logprob(plain: Generator, ids: Sequence[int]) -> float:
    """The log-probability of a text under the mixed distribution, read anew from both prompts."""
    codec, total = plain.tokenizer, 0.0
    assert codec is not None
    for place, token in enumerate(ids):
        rows: list[torch.Tensor] = []
        for given in (PROMPT, OTHER):
            text = (*codec.encode(given), *ids[:place])
            [cache] = plain.strategy.target.start([Prompt(token_ids=text)])
            [found] = plain.strategy.target.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
            rows.append(found.logits[0].double())
        mixed = torch.log_softmax(rows[1] + 1.7 * (rows[0] - rows[1]), dim=-1)
        total += float(mixed[token])
    return total


@pytest.mark.parametrize("strategy", ["beam(num_beams=3)", "best-of-n(samples=2)"])
def test_searches_read_the_mixed_distribution(
    guided: Generator, plain: Generator, strategy: str
) -> None:
    found = guided.search(strategy, PROMPT, contrast=OTHER, max_new_tokens=6, seed=1)
    for one in found.candidates:
        assert one.logprob == pytest.approx(mixed_logprob(plain, one.token_ids), abs=2e-2)
    if strategy.startswith("beam"):
        best = greedy(plain, PROMPT, OTHER, 6)
        assert (found.best.logprob or 0.0) >= mixed_logprob(plain, best) - 2e-2


def test_the_memory_plan_counts_second_readings_and_other_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from outrider.models.memory import Demand
    from outrider.models.sources.families import family

    planned: list[dict[str, Demand]] = []

    def plan(demands: Sequence[Demand], **_: object) -> None:
        planned.append({one.tier: one for one in demands})

    monkeypatch.setattr("outrider.engine.build.plan_memory", plan)
    amateur = family("tiny")["draft"]
    for guidance in (1.0, 2.0, f'contrastive(amateur="{amateur}")'):
        outrider.load("tiny", mode="none", dtype="float32", threads=1, guidance=guidance)
    alone, twice, other = planned
    assert twice["target"].cache_of(100) == 2 * alone["target"].cache_of(100)
    assert set(other) == {"target", "amateur"} and set(twice) == {"target"}
    assert 0 < other["amateur"].weights < other["target"].weights == alone["target"].weights


def test_results_and_descriptions_tell_the_guidance(guided: Generator, plain: Generator) -> None:
    found = guided.generate(PROMPT, **SHORT)
    assert found.to_dict()["guidance"] == 1.7
    assert "guidance 1.7" in found._repr_html_()
    assert "guidance 1.7" in guided.strategy.describe().splitlines()[0]
    assert "guidance=1.7" in repr(guided.strategy)
    unguided = plain.generate(PROMPT, **SHORT)
    assert "guidance" not in unguided.to_dict()
    assert "guidance" not in unguided._repr_html_() + plain.strategy.describe() + repr(
        plain.strategy
    )


def test_the_text_of_a_recipe_is_an_expression() -> None:
    from outrider.strategy.guiding import Guidance, recipe_of

    given = Guidance.contrastive(amateur='my "small" model', alpha=0.2)
    assert recipe_of(str(given)) == given
    built = Guidance.contrastive(amateur=outrider.load("tiny", mode="none").strategy.target)
    assert str(built) == "contrastive(amateur=target)"
    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    assert str(Guidance.contrastive(amateur=module)) == "contrastive(amateur=Sequential)"


def test_errors_about_the_other_prompt_name_it(guided: Generator) -> None:
    window, size = (
        guided.strategy.target.info.context_length,
        guided.strategy.target.info.vocab_size,
    )
    wrong = {"is empty": [], f"has {window} tokens": [5] * window, f"holds token {size}": [size]}
    for problem, ids in wrong.items():
        other = Prompt(token_ids=tuple(ids))
        named = rf"the other prompt \(contrast\) {problem}"
        with pytest.raises(ContextError, match=named):
            guided.generate(PROMPT, contrast=other)
        with pytest.raises(ContextError, match=named):
            guided.search("beam(num_beams=2)", PROMPT, contrast=other)


def test_where_guidance_excludes_all_that_is_allowed_the_target_decides(plain: Generator) -> None:
    """With `alpha=1` only the target's best token is left, which the pattern does not allow."""
    from outrider.strategy.guiding import Guidance

    target = plain.strategy.target
    recipe = Guidance.contrastive(amateur=target, alpha=1.0)
    strict = {
        name: outrider.load("tiny", dtype="float32", threads=1, guidance=recipe, **how)
        for name, how in {
            "undrafted": {"mode": "none"},
            "drafted": {"drafter": "model", "num_speculative_tokens": 4},
        }.items()
    }
    rule = Constraint.regex("[X-Z]{3}( [a-z]{3}ing){3}")
    accepted = 0
    for given in (
        {"constraint": rule, "max_new_tokens": 30, "temperature": 0.0},
        {"constraint": rule, "seed": 3, "max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9},
        {"banned_tokens": plain.generate(PROMPT, **SHORT).token_ids[:3], **SHORT},
    ):
        expected = plain.generate(PROMPT, **given)
        found = {name: model.generate(PROMPT, **given) for name, model in strict.items()}
        assert found["undrafted"].token_ids == found["drafted"].token_ids
        accepted += found["drafted"].speculation.target.accepted
        assert found["undrafted"].finish_reason == expected.finish_reason
        if given.get("temperature") == 0.0:
            assert found["undrafted"].token_ids == expected.token_ids
        else:
            assert found["undrafted"].text[:2].isupper()
    assert accepted > 5
    with pytest.raises(outrider.OutriderError, match="no token is allowed"):
        everything = list(range(target.info.vocab_size))
        raise_for(strict["undrafted"].generate(PROMPT, banned_tokens=everything, **SHORT).error)


def raise_for(error: str | None) -> None:
    """Raise what a result tells."""
    if error is not None:
        raise outrider.OutriderError(error)


def test_another_prompt_has_the_same_images_or_documents_unless_it_is_read_already() -> None:
    from PIL import Image

    from outrider.engine.load import target_tokenizer
    from outrider.engine.requests import read_prompts

    codec, image = target_tokenizer("tiny-vision"), Image.new("RGB", (8, 8), "red")
    [seen] = read_prompts(["What?"], [[image]], None, codec, 64, None, ["Which?"])
    assert seen.contrast is not None and seen.contrast.image_prompt is not None
    assert seen.contrast.token_ids != seen.token_ids
    assert [one.getpixel((0, 0)) for one in seen.contrast.image_prompt.images] == [(255, 0, 0)]
    [long] = read_prompts(["What?"], None, ["a text", "b text"], codec, 64, None, ["Which?"])
    assert long.contrast is not None and long.contrast.context is not None
    [given] = read_prompts(["What?"], [[image]], None, codec, 64, None, [Prompt(token_ids=(1,))])
    assert given.contrast == Prompt(token_ids=(1,))
