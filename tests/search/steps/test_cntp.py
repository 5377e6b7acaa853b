"""Cautious next token prediction."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.drafters import NoDrafter
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.search import Limits
from outrider.search.account import Account
from outrider.search.steps.cntp import Cautious
from outrider.search.steps.trials import Place, SegmentTrials, Trial
from outrider.search.task import Task
from outrider.search.tree import TokenTree
from outrider.testing.rigs import finish, generation, stage
from outrider.testing.searches import END, LETTERS, searched, task
from tests.models.heads.setups import make_target

pytestmark = pytest.mark.method("cntp")

MODEL = TabularModel.random(vocab_size=9, seed=3)
PROMPT = (1, 2, 3)
MARKS = LETTERS[1:3]
"""The tokens 1 and 2 stand for punctuation marks."""
WARPS: dict[str, Any] = {"temperature": 1.2, "top_p": 0.9}


def sampled(seed: int, count: int, **options: Any) -> tuple[int, ...]:
    """What `generate` samples."""
    own = generation(PROMPT, end_ids=(END,), seed=seed, max_new_tokens=count, **options)
    finish(stage(MODEL, NoDrafter()), [own])
    return tuple(own.output)


def row(text: Sequence[int]) -> torch.Tensor:
    return MODEL.logits_after((*PROMPT, *text))


def directly(search: Cautious, own: Task, count: int) -> tuple[list[int], int]:
    """The text by the formulas of the paper, one trial after another, and the number of trials."""
    text, total = list[int](), 0
    while len(text) < count and text[-1:] != [END]:
        probs = own.sampler.probs(row(text), text)
        entropy = -sum(float(p) * math.log(float(p)) for p in probs if p > 0)
        share = min(max((entropy - search.low) / (search.high - search.low), 0.0), 1.0)
        number = math.floor(1 + (search.trials - 1) * share)
        tried: list[tuple[float, list[int]]] = []
        for i in range(number):
            sampler, new, logprobs = own.sampler.for_sample(i), list[int](), list[float]()
            while not new or (number > 1 and new[-1] not in (END, 1, 2)):
                token = sampler.choose(row((*text, *new)), [*text, *new])
                probs = sampler.probs(row((*text, *new)), [*text, *new])
                logprobs.append(math.log(float(probs[token])))
                new.append(token)
                if len(new) == search.span or len(text) + len(new) == count:
                    break
            tried.append((math.exp(-sum(logprobs) / len(new)), new))
        total += number if number > 1 else 0
        text += min(tried, key=lambda pair: pair[0])[1]
    return text, total


@pytest.mark.parametrize("search", [Cautious(trials=1), Cautious(low=math.inf)])
@pytest.mark.parametrize("warps", [WARPS, {"temperature": 0.8, "top_p": 1.0}, {"temperature": 0.0}])
def test_one_trial_or_no_uncertainty_is_sampling_seed_for_seed(
    search: Cautious, warps: dict[str, Any]
) -> None:
    for seed in range(6):
        found = searched(search, MODEL, PROMPT, seed=seed, max_new_tokens=20, **warps)
        assert found.best.token_ids == sampled(seed, 20, **warps)
        assert found.best.about == {"places": 0, "trials": 0}


def test_the_number_of_trials_grows_with_the_entropy_from_one_to_the_most() -> None:
    for search in (Cautious(), Cautious(trials=4, low=0.5, high=0.7), Cautious(trials=1)):
        numbers = [search.number(step / 100) for step in range(300)]
        assert numbers == sorted(numbers)
        assert numbers[0] == 1 and numbers[-1] == search.trials
        assert set(numbers) == set(range(1, search.trials + 1))
    assert [Cautious().number(entropy) for entropy in (0.17, 0.18, 1.49, 1.5)] == [1, 2, 9, 10]


@pytest.mark.parametrize(
    "search",
    [
        Cautious(trials=6, span=3, punctuation=MARKS),
        Cautious(trials=6, punctuation=MARKS),
        Cautious(trials=6, low=1.5, high=1.7, punctuation=MARKS),  # single tokens as well
    ],
)
def test_the_text_is_that_of_the_formulas(search: Cautious) -> None:
    for seed in range(4):
        given: dict[str, Any] = {"seed": seed, "max_new_tokens": 25, **WARPS}
        given["frequency_penalty"] = 0.3  # reads the text so far
        text, trials = directly(search, task(MODEL, PROMPT, **given), 25)
        found = searched(search, MODEL, PROMPT, **given)
        assert list(found.best.token_ids) == text
        assert found.best.about["trials"] == trials


def written(count: int, most: int, **sampling: Any) -> tuple[Task, list[Trial]]:
    """Trials after the prompt."""
    own = task(MODEL, PROMPT, **{**WARPS, **sampling})
    tree = own.tree()
    place = Place.of(own, tree.root, tree.first(), ())
    writer = SegmentTrials(own, tree, lambda token: token in (1, 2))
    return own, writer.write(place, (), count, most)


def test_a_trial_ends_with_punctuation_or_a_stop() -> None:
    ends = set[int]()
    for seed in range(8):
        _, trials = written(5, 7, seed=seed)
        for trial in trials:
            assert not {END, 1, 2} & set(trial.tokens[:-1])
            assert trial.tokens[-1] in (END, 1, 2) or len(trial.tokens) == 7
            ends.add(trial.tokens[-1])
    assert {END, 1, 2} < ends


def test_perplexity_is_that_of_the_warped_distribution() -> None:
    own, trials = written(6, 9)
    assert len({trial.tokens for trial in trials}) > 1
    for number, trial in enumerate(trials):
        warped, plain = list[float](), list[float]()
        sampler = own.sampler.for_sample(number)
        for i, token in enumerate(trial.tokens):
            before = trial.tokens[:i]
            assert token == sampler.choose(row(before), before)
            warped.append(math.log(float(own.sampler.probs(row(before), before)[token])))
            plain.append(float(row(before).log_softmax(-1)[token]))
        assert trial.perplexity == pytest.approx(math.exp(-sum(warped) / len(warped)))
        assert trial.logprob == pytest.approx(sum(plain))


def test_trials_are_one_batch_and_equal_branches_are_read_once() -> None:
    own, trials = written(8, 6, temperature=0.7, seed=6)
    longest = max(len(trial.tokens) for trial in trials)
    assert own.account.forwards == 1 + longest - 1
    read = {trial.tokens[:i] for trial in trials for i in range(1, len(trial.tokens))}
    assert own.account.tokens == 1 + len(read) < 1 + sum(len(t.tokens) - 1 for t in trials)


def test_entropy_is_that_of_the_warped_distribution() -> None:
    own = task(MODEL, PROMPT, **WARPS)
    place = Place.of(own, own.tree().root, row(()), ())
    probs = [float(p) for p in own.sampler.probs(row(()), ()) if p > 0]
    assert place.entropy == pytest.approx(-sum(p * math.log(p) for p in probs))
    greedy = task(MODEL, PROMPT, temperature=0.0)
    assert Place.of(greedy, own.tree().root, row(()), ()).entropy == 0.0


def test_the_cache_is_that_of_a_fresh_prefill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Decoder.load(make_target(tmp_path / "target", vocab_size=20), dtype=torch.float64)
    trees = list[TokenTree]()

    def tree(own: Task) -> TokenTree:
        trees.append(TokenTree(model, own.cache.fork(), own.account))
        return trees[-1]

    monkeypatch.setattr(Task, "tree", tree)
    search = Cautious(punctuation=MARKS, span=6)
    found = searched(search, model, PROMPT, max_new_tokens=24, ignore_eos=True).best
    node = trees[0].newest
    while found.token_ids[: node.depth] != node.tokens:
        assert node.parent is not None
        node = node.parent
    assert node.depth > 10
    _, logits = trees[0].extend([(node, 4)])
    [cache] = model.start([Prompt(token_ids=(*PROMPT, *node.tokens, 4))])
    fresh = TokenTree(model, cache, Account()).first()
    torch.testing.assert_close(logits[0], fresh, rtol=0, atol=1e-10)


def test_rows_of_other_trials_are_dropped() -> None:
    found = searched(
        Cautious(punctuation=MARKS, span=5), MODEL, PROMPT, max_new_tokens=200, ignore_eos=True
    )
    assert found.tokens > 400 > found.cache_rows


class Marks:
    """A tokenizer whose tokens are marks, words and spaces."""

    has_chat = False
    texts = ("", ".", " b", "c, ", "\n", "3:", "d.e", " ", "?")

    def encode(self, text: str) -> tuple[int, ...]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.texts[i] for i in ids)

    def chat(self, messages: object) -> tuple[int, ...]:
        raise NotImplementedError


def test_marks_are_found_in_the_text_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[int, bool]()
    write = SegmentTrials.write

    def noted(self: SegmentTrials, *given: object) -> list[Trial]:
        seen.update({token: self.ends(token) for token in range(9)})
        return write(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentTrials, "write", noted)
    own = replace(task(MODEL, PROMPT, **WARPS), codec=Marks())
    Cautious().run(own)
    assert [token for token in range(9) if seen[token]] == [1, 3, 4, 5, 8]


def test_a_tokenizer_is_needed() -> None:
    with pytest.raises(OptionError, match="cautious next token prediction needs a tokenizer"):
        Cautious().run(replace(task(MODEL, PROMPT, **WARPS), codec=None))


def test_the_score_is_the_mean_log_probability_of_the_model() -> None:
    found = searched(Cautious(punctuation=MARKS), MODEL, PROMPT, max_new_tokens=20).best
    own = [
        float(row(found.token_ids[:i]).log_softmax(-1)[token])
        for i, token in enumerate(found.token_ids)
    ]
    assert found.logprob == pytest.approx(sum(own))
    assert found.score == pytest.approx(sum(own) / len(own))


def test_a_limit_keeps_the_beginning_of_the_text() -> None:
    search = Cautious(punctuation=MARKS)
    given: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
    whole = searched(search, MODEL, PROMPT, **given)
    limits = Limits(tokens=whole.tokens // 2)
    cut = searched(search, MODEL, PROMPT, limits=limits, **given)
    count = len(cut.best.token_ids)
    assert cut.best.finish_reason == "unfinished" and 0 < count < 40
    assert cut.best.token_ids == whole.best.token_ids[:count]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"span": 0}, "span is 0"),
        ({"low": 2.0}, "low is 2 and high is 1.5"),
        ({"high": 0.0}, "high is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(OptionError) as error:
        Cautious(**options)  # type: ignore[arg-type]
    assert problem in str(error.value)
