"""The most probable span of a passage."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.long_context import LongContext, Passage
from outrider.core.types import Prompt
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.search import Limits, SearchResult, run_search
from outrider.search.account import SearchStoppedError
from outrider.search.spans.exact_extract import ExactExtract
from outrider.search.spans.passage import passage_of
from outrider.testing.searches import END, LETTERS, LetterCodec, searched, task
from tests.models.heads.setups import make_target

pytestmark = pytest.mark.method("exact-extract")

RNG = torch.Generator().manual_seed(4)
PASSAGES = [
    tuple(torch.randint(1, vocab, (size,), generator=RNG).tolist())
    for size, vocab in ((9, 7), (14, 4), (14, 7), (20, 3))
]
"""Few different tokens make many spans that occur twice."""


def model(seed: int) -> TabularModel:
    """Odd seeds are almost certain of most tokens, so that bounds are almost reached."""
    return TabularModel.random(vocab_size=7, order=2, seed=seed, scale=8.0 if seed % 2 else 1.5)


def extract(
    seed: int, passage: Sequence[int], ends: Sequence[int] = (END,), **options: float
) -> SearchResult:
    search = ExactExtract(newline=False, **options)  # pyright: ignore[reportArgumentType]
    return searched(search, model(seed), passage, stop_token_ids=tuple(ends))


Scored = tuple[float, tuple[int, ...], int, float, float]


def all_spans(
    target: TabularModel,
    prompt: Sequence[int],
    passage: Sequence[int],
    ends: Sequence[int] = (END,),
    longest: int = 12,
    by_length: bool = False,
) -> list[Scored]:
    """Score every span on its own: score, tokens, first start, L and e."""
    found: dict[tuple[int, ...], Scored] = {}
    for i in range(len(passage)):
        for j in range(i + 1, min(i + longest, len(passage)) + 1):
            span = tuple(passage[i:j])
            if span in found or not {*span}.isdisjoint({END, *ends}):
                continue
            total = 0.0
            for t, token in enumerate(span):
                row = target.logits_after((*prompt, *span[:t])).log_softmax(-1)
                total += float(row[token])
            after = target.logits_after((*prompt, *span)).softmax(-1)
            end = math.log(float(after[[END, *(e for e in ends if e != END)]].sum()))
            score = (total + end) / (len(span) + 1) if by_length else total + end
            found[span] = (score, span, i, total, end)
    return sorted(found.values(), key=lambda one: (-one[0], one[2], len(one[1])))


def check(found: SearchResult, expected: Sequence[Scored]) -> None:
    assert [one.token_ids for one in found.candidates] == [one[1] for one in expected]
    for one, (score, _, start, total, end) in zip(found.candidates, expected, strict=True):
        assert one.score == pytest.approx(score)
        assert one.logprob == pytest.approx(total)
        assert one.about["start"] == start
        assert one.about["end_logprob"] == pytest.approx(end)
        assert one.finish_reason == "stop"


@pytest.mark.parametrize("passage", PASSAGES)
@pytest.mark.parametrize("by_length", [False, True])
def test_the_answers_are_those_of_all_spans(passage: tuple[int, ...], by_length: bool) -> None:
    for seed in range(4):
        for answers in (1, 4):
            found = extract(seed, passage, answers=answers, by_length=by_length)
            expected = all_spans(model(seed), passage, passage, by_length=by_length)
            check(found, expected[:answers])


def test_the_longest_span_bounds_all_of_them() -> None:
    for seed in range(3):
        found = extract(seed, PASSAGES[2], answers=500, longest=3)
        check(found, all_spans(model(seed), PASSAGES[2], PASSAGES[2], longest=3))
        assert max(len(one.token_ids) for one in found.candidates) == 3


def test_several_tokens_may_end_an_answer() -> None:
    """Their probabilities are added, and no span holds one of them."""
    for seed in range(3):
        found = extract(seed, PASSAGES[0], ends=(3, 5), answers=500)
        check(found, all_spans(model(seed), PASSAGES[0], PASSAGES[0], ends=(3, 5)))


@pytest.mark.parametrize("by_length", [False, True])
def test_the_result_does_not_depend_on_the_rows_of_a_forward(by_length: bool) -> None:
    for seed in range(2):
        whole = extract(seed, PASSAGES[3], rows=10_000, answers=5, by_length=by_length)
        for rows in (1, 2, 7):
            found = extract(seed, PASSAGES[3], rows=rows, answers=5, by_length=by_length)
            assert [one.token_ids for one in found.candidates] == [
                one.token_ids for one in whole.candidates
            ]
            assert [one.score for one in found.candidates] == pytest.approx(
                [one.score for one in whole.candidates]
            )


def test_equal_scores_are_ordered_by_their_places() -> None:
    flat = TabularModel(torch.zeros(7, 7, 7, dtype=torch.float64))
    for rows in (1, 3, 100):
        search = ExactExtract(newline=False, answers=3, rows=rows)
        found = searched(search, flat, (4, 2, 4, 6, 1))
        assert [one.token_ids for one in found.candidates] == [(4,), (2,), (6,)]


def test_a_later_beginning_may_tie() -> None:
    """The span of token 2 is read first; that of token 1 has the same score and comes first."""
    table = torch.full((7, 7), -1e9, dtype=torch.float64)
    table[6, [1, 2, 5]] = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()
    table[2, [END, 5]] = 0.0
    table[1, END] = 0.0
    search = ExactExtract(newline=False, rows=1)
    assert searched(search, TabularModel(table), (1, 2, 6)).best.token_ids == (1,)


def test_banned_tokens_are_not_read() -> None:
    found = extract(0, PASSAGES[0], answers=500)
    banned = searched(
        ExactExtract(newline=False, answers=500), model(0), PASSAGES[0], banned_tokens=(4,)
    )
    kept = [one for one in found.candidates if 4 not in one.token_ids]
    assert {one.token_ids for one in banned.candidates} == {one.token_ids for one in kept}
    assert banned.tokens == len(kept) + 1 < found.tokens


def test_an_answer_is_always_a_span() -> None:
    for seed in range(6):
        for passage in PASSAGES:
            for one in extract(seed, passage, answers=9).candidates:
                start, size = one.about["start"], len(one.token_ids)
                assert isinstance(start, int)
                assert one.token_ids == passage[start : start + size] and size > 0


def greedy(target: TabularModel, prompt: Sequence[int]) -> tuple[list[int], float]:
    text, total = list[int](), 0.0
    while len(text) <= 12:
        row = target.logits_after((*prompt, *text)).log_softmax(-1)
        total += float(row.max())
        if int(row.argmax()) == END:
            break
        text.append(int(row.argmax()))
    return text, total


def test_the_score_is_at_least_that_of_a_greedy_answer_that_is_a_span() -> None:
    seen = 0
    for seed in range(60):
        text, total = greedy(model(seed), PASSAGES[1])
        size = len(text)
        spans = [PASSAGES[1][i : i + size] for i in range(len(PASSAGES[1]) - size + 1)]
        if text and tuple(text) in spans:
            seen += 1
            assert extract(seed, PASSAGES[1]).best.score >= total - 1e-12
    assert seen >= 3


def test_beginnings_that_cannot_win_are_not_read() -> None:
    """All spans of 20 tokens with up to 12 tokens would be 174 rows."""
    rows = [extract(seed, PASSAGES[2], rows=1).tokens for seed in range(3)]
    spans = len(all_spans(model(0), PASSAGES[2], PASSAGES[2]))
    assert max(rows) < spans / 2
    several = [extract(seed, PASSAGES[2], rows=1, answers=500).tokens for seed in range(3)]
    assert several == [spans + 1] * 3  # each distinct span once, after the end of the prompt
    assert all(low < high for low, high in zip(rows, several, strict=True))


def test_spans_are_branches_of_one_cache() -> None:
    found = extract(0, PASSAGES[1], answers=500, rows=4)
    assert found.forwards == pytest.approx(1 + (found.tokens - 1) / 4, abs=8)
    assert found.cache_rows <= len(PASSAGES[1]) + found.tokens


def test_rows_of_a_real_model_are_those_of_each_span_alone(tmp_path) -> None:
    target = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float64)
    prompt = (3, 9, 4, 17, 9, 4, 21)
    own = task(target, prompt)
    found = run_search(ExactExtract(newline=False, answers=4, rows=3), own, "test")

    def alone(text: Sequence[int]) -> torch.Tensor:
        return task(target, (*prompt, *text)).tree().first().log_softmax(-1)

    for one in found.candidates:
        text = one.token_ids
        total = sum(float(alone(text[:t])[token]) for t, token in enumerate(text))
        assert one.score == pytest.approx(total + float(alone(text)[END]), abs=1e-9)
    scores = [one.score for one in found.candidates]
    assert all(a >= b for a, b in pairwise(scores))


# -- the passage ------------------------------------------------------------------------------


class Words(LetterCodec):
    """Letters, and tokens of two letters from 30 on; line ends are token 40."""

    def encode(self, text: str) -> tuple[int, ...]:
        return (40,) if text == "\n" else super().encode(text) if "\n" not in text else (40, 40)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("xy" if i == 30 else "\n" if i == 40 else LETTERS[i] for i in ids)


def test_a_passage_in_the_prompt_has_the_tokens_of_the_prompt() -> None:
    own = task(model(0), (1, 30, 2, 3, 40, 30, 2, 4))
    own.codec = Words()
    assert passage_of(own, " xycd") == (30, 2, 3)
    assert passage_of(own, "ycd") == (30, 2, 3)  # a token that begins before the passage
    assert passage_of(own, "xyc") == (30, 2)  # its last place
    assert passage_of(own, "bx") == (1, 30)
    assert passage_of(own, "cdd") == (2, 3, 3)  # not in the prompt
    assert passage_of(own, None) == (1, 30, 2, 3, 40, 30, 2, 4)


def test_documents_are_the_passage() -> None:
    chunks = tuple(Passage(text="", token_ids=ids) for ids in ((2, 3), (4,)))
    context = LongContext(start=1, chunks=chunks, query=Passage(text="", token_ids=(5, 6)))
    own = task(model(0), (1, 2, 3, 4, 5, 6))
    own.request.prompt = replace(Prompt(token_ids=(1, 2, 3, 4, 5, 6)), context=context)
    assert passage_of(own, None) == (2, 3, 4)
    assert passage_of(own, "bc") == (1, 2)


def test_line_ends_and_stop_strings_end_answers() -> None:
    target = TabularModel.random(vocab_size=41, order=1, seed=1)
    own = task(target, (1, 2, 40, 3), stop=("d", "dd"))
    own.codec = Words()
    found = run_search(ExactExtract(answers=9), own, "test").candidates
    assert {one.token_ids for one in found} == {(1,), (2,), (1, 2)}
    first = found[0]
    span = first.token_ids
    after = target.logits_after((*own.request.prompt.token_ids, *span)).softmax(-1)
    assert first.about["end_logprob"] == pytest.approx(float(after[[END, 3, 40]].sum().log()))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(OptionError, match="no token ends an answer"):
        searched(ExactExtract(newline=False), model(0), (1, 2), ignore_eos=True)
    with pytest.raises(OptionError, match="passage is empty"):
        searched(ExactExtract(newline=False, passage=""), model(0), (1, 2))
    for make in (
        lambda: ExactExtract(answers=0),
        lambda: ExactExtract(longest=0),
        lambda: ExactExtract(rows=0),
    ):
        with pytest.raises(OptionError):
            make()


def test_a_limit_keeps_the_best_so_far() -> None:
    whole = all_spans(model(0), PASSAGES[2], PASSAGES[2])
    search = ExactExtract(newline=False, answers=500, rows=4)
    found = searched(search, model(0), PASSAGES[2], limits=Limits(tokens=9))
    assert found.stopped and 0 < len(found.candidates) < len(whole)
    scores = {one[1]: one[0] for one in whole}
    assert all(one.score == pytest.approx(scores[one.token_ids]) for one in found.candidates)
    with pytest.raises(SearchStoppedError):
        searched(search, model(0), PASSAGES[2], limits=Limits(tokens=1))
