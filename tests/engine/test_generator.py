"""Prompts in, text out: shapes, seeds, batches, conversations, and what is refused."""

from typing import Any

import pytest
import torch

from outrider.core.errors import ContextError, OptionError
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.result import Result
from outrider.models.tabular import TabularModel
from outrider.strategy import Strategy, pyramid
from tests.engine.conftest import NOT_LETTERS, Load, Reads
from tests.exactness.setups.rigs import tabular_family

FAMILY: Any = tabular_family(seed=6)
PROMPTS = ["one day", "a", "the old king said: "]


def tabular(target: TabularModel | None = None, **options: Any) -> Generator:
    model = target or FAMILY.target
    return Generator(pyramid(model, FAMILY.draft, [FAMILY.qualifier]), **options)


# -- shapes ------------------------------------------------------------------------------------


def test_one_prompt_one_result(loaded: Load) -> None:
    result = loaded().generate("one day", max_new_tokens=12)
    assert isinstance(result, Result)
    assert result.prompt_tokens == 7 and result.completion_tokens == len(result.token_ids) <= 12
    codec = loaded().tokenizer
    assert codec is not None and result.text == codec.decode(result.token_ids)
    assert result.speculation.mode == "exact" and result.speculation.target.accepted > 0


def test_lists_and_samples() -> None:
    generator, ids = tabular(), [1, 2, 3]

    def shape(got: Any) -> Any:
        return [shape(g) for g in got] if isinstance(got, list) else type(got).__name__

    one = "Result"
    assert shape(generator.generate(ids, max_new_tokens=3)) == one
    assert shape(generator.generate([ids], max_new_tokens=3)) == [one]
    assert shape(generator.generate([ids, [4]], max_new_tokens=3)) == [one, one]
    assert shape(generator.generate(ids, n=2, max_new_tokens=3)) == [one, one]
    assert shape(generator.generate([ids, [4]], n=3, max_new_tokens=3)) == [[one] * 3] * 2
    assert shape(generator.generate([ids], n=1, max_new_tokens=3)) == [one]
    assert generator.generate([]) == []


def test_prompts_of_all_forms_in_one_batch(loaded: Load) -> None:
    generator = loaded()
    forms: list[Any] = ["ab", [97, 98], (97, 98), Prompt(token_ids=(97, 98))]
    forms.append([{"role": "user", "content": "ab"}])
    got = generator.generate(forms, max_new_tokens=5)
    assert [r.prompt_tokens for r in got] == [2, 2, 2, 2, 5]
    assert len({r.token_ids for r in got[:4]}) == 1


# -- the same text -----------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("tiers", "temperature"), [(2, 0.8), (3, 0.0), (3, 0.8), (4, 0.8)])
def test_drafted_equals_undrafted(loaded: Load, tiers: int, temperature: float) -> None:
    options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3, "stop": "e"}
    drafted = loaded(tiers).generate(PROMPTS, **options)
    plain = loaded(1).generate(PROMPTS, **options)
    for ours, theirs in zip(drafted, plain, strict=True):
        assert (ours.token_ids, ours.text) == (theirs.token_ids, theirs.text)
        assert (ours.finish_reason, ours.ends) == (theirs.finish_reason, theirs.ends)
    assert sum(r.speculation.target.accepted for r in drafted) > 0


@pytest.mark.usefixtures("unchecked")
def test_a_batch_is_its_requests() -> None:
    generator = tabular()
    prompts = [[1, 2, 3], [4], [5, 5], [6, 1]]
    options = {"temperature": 0.9, "seed": 8, "max_new_tokens": 12}
    together = generator.generate(prompts, n=2, **options)
    for prompt, both in zip(prompts, together, strict=True):
        alone = generator.generate(prompt, n=2, **options)
        assert [r.token_ids for r in both] == [r.token_ids for r in alone]


@pytest.mark.usefixtures("unchecked")
def test_seeds() -> None:
    generator = tabular()
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 16}
    first = generator.generate([1, 2], **options)
    again = generator.generate([1, 2], **options, seed=first.seed)
    assert again.token_ids == first.token_ids and again.seed == first.seed
    assert generator.generate([1, 2], **options).token_ids != first.token_ids
    same = generator.generate([[1, 2], [1, 2]], **options)
    assert same[0].seed != same[1].seed and same[0].token_ids != same[1].token_ids
    same = generator.generate([[1, 2], [1, 2]], **options, seed=4)
    assert same[0].token_ids == same[1].token_ids


def test_samples_share_a_prompt_and_a_seed_but_no_text(loaded: Load, reads: Reads) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 10, "seed": 2}
    three = loaded().generate("one day", n=3, **options)
    assert len({r.token_ids for r in three}) == 3 and {r.seed for r in three} == {2}
    assert reads.prefill == {"target": 6, "qualifier": 6, "draft": 6}, "read once"
    assert loaded().generate("one day", **options).token_ids == three[0].token_ids


def test_start_gives_tokens_as_they_come() -> None:
    generator = tabular()
    generation, rounds = generator.start([1, 2, 3], max_new_tokens=20)
    sizes = [len(generation.output) for _ in rounds]
    assert sizes == sorted(set(sizes)) and sizes[-1] == 20
    assert tuple(generation.output) == generator.generate([1, 2, 3], max_new_tokens=20).token_ids


# -- conversations -----------------------------------------------------------------------------


def test_the_next_turn_reads_only_what_is_new(loaded: Load, reads: Reads) -> None:
    generator = loaded()
    options: dict[str, Any] = {"max_new_tokens": 12, "banned_tokens": NOT_LETTERS}
    talk = [{"role": "user", "content": "tell me a long story"}]
    first = generator.generate(talk, **options)
    read = first.prompt_tokens + first.completion_tokens
    assert reads.prefill == dict.fromkeys(("target", "qualifier", "draft"), first.prompt_tokens - 1)
    talk += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "and then?"},
    ]
    reads.prefill.clear()
    second = generator.generate(talk, **options)
    new = second.prompt_tokens - read
    assert reads.prefill["target"] == new == len("and then?") + 4, "and four marks"
    for tier in ("qualifier", "draft"):
        assert new <= reads.prefill[tier] <= new + 12, "a lower tier may have lagged"
    generator.reset()
    reads.prefill.clear()
    fresh = generator.generate(talk, **options)
    assert reads.prefill["target"] == second.prompt_tokens - 1
    assert fresh.token_ids == second.token_ids


@pytest.mark.usefixtures("unchecked")
def test_what_is_kept_never_changes_a_text(loaded: Load) -> None:
    """Turns, forks, other prompts, batches and cancelled streams in between."""
    generator, plain = loaded(), loaded(1)
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.7, "seed": 1}
    texts: list[Any] = ["one day", "one day she", "one", "zebra"]
    for text in texts:
        got = generator.generate(text, **options)
        assert got.token_ids == plain.generate(text, **options).token_ids
        for _ in generator.stream(text + "!", **options):
            break
        generator.generate([text, text + " and"], n=2, **options)


def test_an_error_is_not_kept() -> None:
    table = FAMILY.target.table.clone()
    table[6, 6] = torch.nan
    generator = tabular(TabularModel(table, name="target"))
    good, bad = generator.generate([[1, 2], [6, 6]], max_new_tokens=1)
    assert (good.finish_reason, good.error) == ("length", None)
    assert (bad.finish_reason, bad.token_ids, bad.text) == ("error", (), "")
    assert "model target: logits hold NaN" in bad.error
    assert generator.generate([6, 6], max_new_tokens=1).finish_reason == "error"
    assert generator.generate([1, 2], max_new_tokens=1).token_ids == good.token_ids


# -- limits and refusals -----------------------------------------------------------------------


def test_a_context_limits_prompt_and_answer() -> None:
    generator = tabular(context_length=10)
    result = generator.generate([1] * 6, max_new_tokens=50, min_new_tokens=30)
    assert (result.completion_tokens, result.finish_reason) == (4, "length")
    assert generator.generate([1] * 9).completion_tokens == 1
    with pytest.raises(ContextError, match=r"has 10 tokens.*limited to 10.*by 1 token,"):
        generator.generate([1] * 10)
    with pytest.raises(ContextError, match="prompt is empty"):
        generator.generate(Prompt(token_ids=()))


def test_after_a_refused_prompt_the_next_one_is_written() -> None:
    target = TabularModel(FAMILY.target.table, context_length=12)
    generator = tabular(target)
    first = generator.generate([1, 2], max_new_tokens=5)
    with pytest.raises(ContextError, match="12"):
        generator.generate([[1, 2], [1] * 12])
    assert generator.generate([1, 2], max_new_tokens=5).token_ids == first.token_ids


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temprature": 1.0}, "unknown option 'temprature'. Did you mean 'temperature'?"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"stop": ["a", ""]}, "a stop string is empty"),
        ({"stop": "a"}, "stop strings need a tokenizer. Use stop_token_ids"),
        ({"n": 0}, "n is 0"),
        ({"n": 1.5}, "n is 1.5. Give a whole number"),
        ({"n": float("inf")}, "n is inf. Give a whole number"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9"),
    ],
)
def test_refused_options(options: Any, said: str) -> None:
    with pytest.raises(OptionError) as refusal:
        tabular().generate([1], **options)
    assert said in str(refusal.value)


@pytest.mark.parametrize("prompt", ["text", [{"role": "user", "content": "a"}]])
def test_text_needs_a_tokenizer(prompt: Any) -> None:
    with pytest.raises(OptionError, match="the target has no tokenizer"):
        tabular().generate(prompt)


def test_a_strategy_may_depend_on_the_parameters() -> None:
    asked: list[float] = []

    def choose(params: Any) -> Strategy:
        asked.append(params.temperature)
        return Strategy(target=FAMILY.target)

    generator = Generator(choose, mode="none")
    generator.generate([1], temperature=0.5, max_new_tokens=2)
    assert generator.strategy.target is FAMILY.target
    assert asked == [0.5, 0.0]
