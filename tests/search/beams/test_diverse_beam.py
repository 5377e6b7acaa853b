"""Diverse beam search: what the paper promises, and a plain copy of its algorithm."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from outrider.core.errors import LogitsError, OptionError
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.search import Limits, SearchResult, run_search
from outrider.search.beams.beam import BeamSearch
from outrider.search.beams.diverse_beam import METHOD, DiverseBeam, GroupPenalty
from outrider.testing.searches import END, searched, task
from tests.models.heads.setups import make_target

pytestmark = pytest.mark.method("diverse-beam")

MODEL = TabularModel.random(vocab_size=7, seed=4)
PROMPTS = [(1, 2), (3,), (6, 5, 4)]


def group(found: SearchResult, number: int) -> list[tuple[tuple[int, ...], float]]:
    """Texts and scores of one group, the best first."""
    return [(one.token_ids, one.score) for one in found.candidates if one.about["group"] == number]


def texts(found: SearchResult) -> list[tuple[tuple[int, ...], float]]:
    return [(one.token_ids, one.score) for one in found.candidates]


def logprob(model: TabularModel, prompt: Sequence[int], text: Sequence[int]) -> float:
    rows = [model.logits_after((*prompt, *text[:i])) for i in range(len(text))]
    return sum(
        float(torch.log_softmax(row, -1)[token]) for row, token in zip(rows, text, strict=True)
    )


@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_one_group_is_beam_search(prompt: tuple[int, ...], early_stopping: bool | str) -> None:
    options: dict[str, Any] = {"num_beams": 4, "early_stopping": early_stopping}
    found = searched(DiverseBeam(num_groups=1, strength=0.8, **options), MODEL, prompt)
    beam = searched(BeamSearch(**options), MODEL, prompt)
    assert texts(found) == texts(beam)
    assert found.forwards == beam.forwards and found.tokens == beam.tokens


@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_strength_zero_makes_all_groups_equal(prompt: tuple[int, ...]) -> None:
    found = searched(DiverseBeam(num_beams=6, num_groups=3, strength=0.0), MODEL, prompt)
    assert group(found, 0) == group(found, 1) == group(found, 2) != []
    assert all(one.logprob == one.about["ranked"] for one in found.candidates)


@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
@pytest.mark.parametrize("strength", [0.2, 0.8, 5.0])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_first_group_is_always_a_beam_search_of_its_width(
    prompt: tuple[int, ...], strength: float, width: int
) -> None:
    search = DiverseBeam(num_beams=3 * width, num_groups=3, strength=strength)
    found = searched(search, MODEL, prompt, repetition_penalty=1.2)
    beam = searched(BeamSearch(num_beams=width), MODEL, prompt, repetition_penalty=1.2)
    assert group(found, 0) == texts(beam)


def test_all_groups_are_read_in_one_forward_a_step() -> None:
    found = searched(DiverseBeam(num_beams=6, num_groups=3), MODEL, (1, 2), ignore_eos=True)
    assert found.forwards == 12
    assert found.tokens == 1 + 11 * 6  # the end of the prompt, then a row for each beam


def distinct(found: SearchResult, size: int = 2) -> float:
    """Share of different n-grams among all of the texts."""
    grams = [
        one.token_ids[i : i + size]
        for one in found.candidates
        for i in range(len(one.token_ids) - size + 1)
    ]
    return len(set(grams)) / len(grams)


def test_distinct_n_grams_rise_with_the_strength() -> None:
    shares: list[float] = []
    for strength in (0.0, 0.3, 1.0):
        search = DiverseBeam(num_beams=6, num_groups=3, strength=strength)
        values = [
            distinct(searched(search, TabularModel.random(vocab_size=20, seed=seed), prompt))
            for seed in range(2)
            for prompt in PROMPTS
        ]
        shares.append(sum(values) / len(values))
    assert shares == sorted(shares)
    assert shares[-1] > 1.5 * shares[0]


def plain(
    model: TabularModel, prompt: Sequence[int], width: int, groups: int, strength: float, steps: int
) -> list[list[tuple[tuple[int, ...], float]]]:
    """Algorithm 1 of the paper for texts without an end: texts and penalised sums of each group."""
    beams: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in range(groups)]
    for _ in range(steps):
        taken: list[int] = []
        for number in range(groups):
            found: list[tuple[tuple[int, ...], float]] = []
            for text, total in beams[number]:
                row = torch.log_softmax(model.logits_after((*prompt, *text)), -1).tolist()
                found += [
                    ((*text, token), total + value - strength * taken.count(token))
                    for token, value in enumerate(row)
                ]
            beams[number] = sorted(found, key=lambda pair: -pair[1])[:width]
            taken += [text[-1] for text, _ in beams[number]]
    return beams


@pytest.mark.parametrize(("width", "groups", "strength"), [(1, 4, 0.5), (2, 3, 0.3), (3, 2, 2.0)])
def test_a_plain_copy_of_the_algorithm_writes_the_same(
    width: int, groups: int, strength: float
) -> None:
    for prompt in PROMPTS:
        search = DiverseBeam(num_beams=width * groups, num_groups=groups, strength=strength)
        found = searched(search, MODEL, prompt, max_new_tokens=8, ignore_eos=True)
        for number, own in enumerate(plain(MODEL, prompt, width, groups, strength, 8)):
            assert [text for text, _ in group(found, number)] == [text for text, _ in own]
            sums = [score * 8 for _, score in group(found, number)]
            assert sums == pytest.approx([total for _, total in own])


def test_both_sums_are_returned() -> None:
    search = DiverseBeam(num_beams=6, num_groups=3, strength=1.0, length_penalty=0.5)
    found = searched(search, MODEL, (1, 2))
    for one in found.candidates:
        assert one.logprob == pytest.approx(logprob(MODEL, (1, 2), one.token_ids))
        assert one.about["ranked"] == pytest.approx(one.score * len(one.token_ids) ** 0.5)
        assert one.about["ranked"] <= one.logprob + 1e-9
    assert any(one.about["ranked"] < one.logprob - 0.5 for one in found.candidates)


def test_texts_can_be_ordered_by_their_log_probability() -> None:
    options: dict[str, Any] = {"num_beams": 6, "num_groups": 3, "strength": 1.0}
    penalised = searched(DiverseBeam(**options), MODEL, (1, 2))
    found = searched(DiverseBeam(by_logprob=True, **options), MODEL, (1, 2))
    assert {one.token_ids for one in found.candidates} == {
        one.token_ids for one in penalised.candidates
    }
    own = [logprob(MODEL, (1, 2), one.token_ids) / len(one.token_ids) for one in found.candidates]
    assert [one.score for one in found.candidates] == pytest.approx(own)
    assert own == sorted(own, reverse=True)


def flat(after: dict[int, dict[int, float]]) -> TabularModel:
    """A model of four tokens with these probabilities after a token, and equal ones elsewhere."""
    table = torch.full((4, 4), 0.25, dtype=torch.float64)
    for token, row in after.items():
        table[token] = torch.tensor([row.get(i, 1e-9) for i in range(4)], dtype=torch.float64)
    return TabularModel(table.log())


def test_an_end_token_counts_as_taken_at_its_step_only() -> None:
    """The first group ends at once; the second one pays for an end there, and then for nothing."""
    model = flat({1: {END: 0.6, 2: 0.4}, 2: {END: 0.55, 3: 0.45}})
    search = DiverseBeam(num_beams=2, num_groups=2, strength=1.0)
    found = searched(search, model, (1,))
    assert [text for text, _ in group(found, 0)] == [(END,)]
    [(text, score)] = group(found, 1)
    assert text == (2, END)
    assert score * 2 == pytest.approx(float(torch.tensor(0.4 * 0.55).log()), abs=1e-6)


def test_groups_that_have_not_ended_go_on() -> None:
    found = searched(
        DiverseBeam(num_beams=2, num_groups=2, strength=50.0), MODEL, (1, 2), max_new_tokens=6
    )
    assert len({one.token_ids[0] for one in found.candidates}) == 2
    assert {one.about["group"] for one in found.candidates} == {0, 1}


def forbids(*first: int, after: int = 1) -> Any:
    """A processor that allows nothing after `after` tokens that begin with one of these."""

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        new = ids[0, 2:].tolist()
        stuck = new[:1] and new[0] in first and len(new) >= after
        return torch.full_like(scores, -torch.inf) if stuck else scores

    return processor


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("after", [1, 3])
def test_a_group_after_which_nothing_is_allowed_ends_and_the_others_go_on(
    width: int, after: int
) -> None:
    first = MODEL.logits_after((1, 2)).topk(width).indices.tolist()
    found = searched(
        DiverseBeam(num_beams=2 * width, num_groups=2, strength=100.0),
        MODEL,
        (1, 2),
        ignore_eos=True,
        max_new_tokens=6,
        logits_processors=(forbids(*first, after=after),),
    )
    assert group(found, 0) == []
    assert len(group(found, 1)) == width
    assert all(len(one.token_ids) == 6 for one in found.candidates)
    assert not found.stopped


def test_a_group_without_a_token_left_takes_none() -> None:
    """After its end, the other group is a beam search of its own, which may take its tokens."""
    options: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 6}
    again = 0
    for prompt in [(i, 2) for i in range(1, 7)]:
        best = int(MODEL.logits_after(prompt).argmax())
        found = searched(
            DiverseBeam(num_beams=2, num_groups=2, strength=100.0),
            MODEL,
            prompt,
            logits_processors=(forbids(best),),
            **options,
        )
        [one] = found.candidates
        second, *rest = one.token_ids
        alone = searched(
            BeamSearch(num_beams=1), MODEL, (*prompt, second), **options | {"max_new_tokens": 5}
        )
        assert second != best and rest == list(alone.best.token_ids)
        assert found.tokens == 1 + 2 + 4  # the end of the prompt, two groups once, then one
        again += best in rest
    assert again


def test_finished_texts_of_a_group_without_a_token_left_are_kept() -> None:
    model = flat({1: {END: 0.6, 2: 0.4}, 2: {2: 1.0}})
    search = DiverseBeam(num_beams=4, num_groups=2, strength=0.0)
    found = searched(search, model, (3, 1), logits_processors=(forbids(0, 1, 2, 3),))
    assert [text for text, _ in group(found, 0)] == [(END,)]
    assert group(found, 1) == group(found, 0)


@pytest.mark.parametrize("width", [1, 2])
def test_it_is_an_error_if_no_group_has_a_token_left(width: int) -> None:
    search = DiverseBeam(num_beams=2 * width, num_groups=2)
    for more in ({"banned_tokens": tuple(range(7))}, {"logits_processors": (forbids(*range(7)),)}):
        options: dict[str, Any] = {"ignore_eos": True, **more}
        with pytest.raises(LogitsError, match="no token is allowed"):
            searched(search, MODEL, (1, 2), **options)


def test_the_penalty_counts_each_beam() -> None:
    scores = torch.zeros(2, 5, dtype=torch.float64)
    changed = GroupPenalty(0.5, [3, 1, 3])(scores)
    assert changed.tolist() == [[0.0, -0.5, 0.0, -1.0, 0.0]] * 2
    assert not scores.any()
    assert GroupPenalty(0.5, [])(scores) is scores


def test_a_limit_returns_texts_of_all_groups() -> None:
    search = DiverseBeam(num_beams=4, num_groups=2)
    found = searched(search, MODEL, (1, 2), ignore_eos=True, limits=Limits(tokens=9))
    assert {one.finish_reason for one in found.candidates} == {"unfinished"}
    assert {one.about["group"] for one in found.candidates} == {0, 1}
    assert len(searched(DiverseBeam(num_return_sequences=3), MODEL, (1, 2)).candidates) == 3


def test_groups_share_a_cache_of_a_transformer(tmp_path: Any) -> None:
    model = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float64)

    def run(search: DiverseBeam | BeamSearch) -> SearchResult:
        own = task(model, (1, 2, 3), max_new_tokens=16, ignore_eos=True)
        own.codec = None  # its letters are too few
        return run_search(search, own, "test")

    found = run(DiverseBeam(num_beams=6, num_groups=3, strength=0.4))
    beam = run(BeamSearch(num_beams=2))
    assert [text for text, _ in group(found, 0)] == [text for text, _ in texts(beam)]
    assert [score for _, score in group(found, 0)] == pytest.approx([s for _, s in texts(beam)])
    assert found.cache_rows < 3 + 6 * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 5, "num_groups": 2}, "2 groups do not divide"),
        ({"num_groups": 0}, "num_groups is 0"),
        ({"strength": -0.5}, "strength is -0.5"),
        ({"early_stopping": "no"}, "early_stopping is 'no'"),
        ({"num_return_sequences": 11}, "above num_beams 10"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        METHOD.build(options)
