"""DeAL: beam search with rewards of look-aheads."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from outrider.core.errors import LogitsError, OptionError
from outrider.search.beams.beam import BeamSearch
from outrider.search.beams.deal import Deal
from outrider.search.beams.rewarded import candidates_of, standardised
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, LETTERS, Counted, LetterCodec, searched

pytestmark = pytest.mark.method("deal")

MODELS = [tabular_family(seed=seed).target for seed in range(4)]
PROMPT = (1, 2, 3)
LENGTH = 7
DECODE = LetterCodec().decode


@dataclass
class Letters:
    """The reward is the number of letters d and f; it remembers what it has judged."""

    calls: list[list[str]] = field(default_factory=list)
    name: str = "letters"

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        self.calls.append(list(texts))
        return [reward(text) for text in texts]


def reward(text: str) -> float:
    return text.count("d") + 1.5 * text.count("f") - text.count("c")


def row(model, text) -> torch.Tensor:
    return model.logits_after((*PROMPT, *text)).log_softmax(-1)


def rolled(model, text, count) -> tuple[int, ...]:
    """A text with its next greedy tokens."""
    for _ in range(min(count, LENGTH - len(text))):
        text = (*text, int(row(model, text).argmax()))
    return text


def scaled(values: list[float], standardise: bool) -> list[float]:
    if not standardise:
        return values
    spread = statistics.pstdev(values)
    return [(one - statistics.mean(values)) / spread if spread > 1e-9 else 0.0 for one in values]


def by_hand(model, weight, width, count, standardise=True) -> list[tuple[int, ...]]:
    """The beams of DeAL where no text ends, all read anew at each step."""
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(LENGTH):
        found = []
        for text, total in beams:
            own = row(model, text)
            for token in own.topk(width).indices.tolist():
                found.append(((*text, token), total + float(own[token])))
        texts = [rolled(model, text, count) for text, _ in found]
        extra = scaled([reward(DECODE(text)) for text in texts], standardise)
        order = sorted(range(len(found)), key=lambda i: -(found[i][1] + weight * extra[i]))
        beams = [found[i] for i in order[:width]]
    return [text for text, _ in beams]


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(("weight", "width", "count"), [(0.7, 3, 2), (2.0, 2, 4), (1.0, 3, 0)])
def test_the_beams_are_those_of_the_definition(weight, width, count, standardise) -> None:
    differ = 0
    for model in MODELS:
        given = {"ignore_eos": True, "max_new_tokens": LENGTH, "scorer": Letters()}
        strategy = Deal(weight=weight, num_beams=width, lookahead=count, standardise=standardise)
        found = searched(strategy, model, PROMPT, **given)
        expected = by_hand(model, weight, width, count, standardise)
        assert {one.token_ids for one in found.candidates} == set(expected)
        plain = by_hand(model, 0.0, width, 0)
        differ += set(expected) != set(plain)
        for one in found.candidates:
            assert one.about["reward"] == pytest.approx(reward(one.text))
    assert differ >= 3


@pytest.mark.parametrize(
    "sampling", [{}, {"frequency_penalty": 0.6, "banned_tokens": (4,)}, {"stop_token_ids": (3,)}]
)
def test_a_weight_of_0_is_beam_search(sampling) -> None:
    for model in MODELS:
        for width in (1, 3, 5):
            scorer = Letters()
            own = searched(
                Deal(weight=0.0, num_beams=width), model, PROMPT, scorer=scorer, **sampling
            )
            beam = searched(BeamSearch(num_beams=width), model, PROMPT, **sampling)
            assert [(one.token_ids, one.score) for one in own.candidates] == [
                (one.token_ids, one.score) for one in beam.candidates
            ]
            assert own.tokens <= beam.tokens and not scorer.calls


def test_no_look_ahead_is_the_reward_weighted_next_token() -> None:
    for model in MODELS:
        found = searched(
            Deal(weight=0.8, num_beams=1, branches=4, lookahead=0, standardise=False),
            model,
            PROMPT,
            scorer=Letters(),
            ignore_eos=True,
        )
        text: tuple[int, ...] = ()
        for token in found.best.token_ids:
            own = row(model, text)
            worth = {
                one: float(own[one]) + 0.8 * reward(DECODE((*text, one)))
                for one in own.topk(4).indices.tolist()
            }
            assert token == max(worth, key=lambda one: worth[one])
            text = (*text, token)
        assert found.tokens == len(text)  # candidates are not read


def test_rewards_see_greedy_continuations_and_ended_beams_are_not_rolled() -> None:
    ended = 0
    for model in MODELS:
        scorer = Letters()
        searched(Deal(num_beams=2, lookahead=3), model, PROMPT, scorer=scorer)
        first = row(model, ())
        expected = []
        for token in candidates_of(first, 2, frozenset({END})):
            text = [token]
            while len(text) < 4 and text[-1] != END:
                text.append(int(row(model, text).argmax()))
            ended += text[-1] == END
            expected.append(DECODE(text))
        assert scorer.calls[0] == expected
        assert all(LETTERS[END] not in text for call in scorer.calls for text in call)
    assert ended > 0


def test_an_ended_candidate_costs_no_row() -> None:
    """Where every text ends at once, only the candidate that goes on is read."""
    table = torch.full((7, 7), -9.0, dtype=torch.float64)
    table[:, END] = 9.0
    model = type(MODELS[0])(table)
    found = searched(Deal(num_beams=1, branches=1, lookahead=5), model, PROMPT, scorer=Letters())
    assert found.best.token_ids == (END,)
    assert found.scorer_calls == 2 and found.tokens == 1 + 1


@pytest.mark.parametrize("keep", ["token", "segment"])
def test_the_number_of_calls_is_bounded(keep: str) -> None:
    width, count = 3, 4
    for model in MODELS:
        found = searched(
            Deal(num_beams=width, lookahead=count, keep=keep),
            model,
            PROMPT,
            scorer=Letters(),
            ignore_eos=True,
        )
        steps = len(found.best.token_ids) if keep == "token" else 3
        assert found.scorer_calls <= steps * width * width
        assert found.forwards <= 1 + steps * count
        assert found.tokens <= 1 + steps * (width * width * count + width)


def test_segments_keep_the_whole_continuation() -> None:
    better = 0
    for model in MODELS:
        given = {"scorer": Letters(), "ignore_eos": True, "max_new_tokens": 12}
        own = searched(Deal(keep="segment", num_beams=2, lookahead=4), model, PROMPT, **given)
        for one in own.candidates:
            assert len(one.token_ids) == 12
            for begin in (0, 4, 8):
                text = one.token_ids[: begin + 1]
                for token in one.token_ids[begin + 1 : begin + 4]:  # greedy inside a segment
                    assert token == int(row(model, text).argmax())
                    text = (*text, token)
            total = sum(
                float(row(model, one.token_ids[:i])[t]) for i, t in enumerate(one.token_ids)
            )
            assert one.logprob == pytest.approx(total)
            assert one.about["reward"] == reward(one.text)
        greedy = searched(BeamSearch(num_beams=1), model, PROMPT, **given)
        better += reward(own.text) > reward(greedy.text)
    assert better >= 2


def test_a_segment_without_rewards_takes_the_most_probable_segment() -> None:
    for model in MODELS:
        own = searched(
            Deal(keep="segment", weight=0.0, num_beams=1, branches=7, lookahead=3),
            model,
            PROMPT,
            ignore_eos=True,
            max_new_tokens=3,
        )
        totals = {}
        for token in range(7):
            text = [token]
            while len(text) < 3:
                text.append(int(row(model, text).argmax()))
            totals[tuple(text)] = sum(float(row(model, text[:i])[t]) for i, t in enumerate(text))
        assert own.best.token_ids == max(totals, key=lambda one: totals[one])


def test_rewards_are_standardised_among_the_candidates() -> None:
    assert standardised([1.0, 3.0]) == [-1.0, 1.0]
    assert standardised([2.0, 2.0, 2.0]) == [0.0, 0.0, 0.0]
    assert standardised([1.0, 3.0, float("-inf")]) == [-1.0, 1.0, float("-inf")]
    for factor, shift in [(10.0, 0.0), (0.1, -4.0)]:

        def other(text: str, factor: float = factor, shift: float = shift) -> float:
            return factor * reward(text) + shift

        for model in MODELS:
            a = searched(Deal(num_beams=2, lookahead=3), model, PROMPT, scorer=reward)
            b = searched(Deal(num_beams=2, lookahead=3), model, PROMPT, scorer=other)
            assert [c.token_ids for c in a.candidates] == [c.token_ids for c in b.candidates]


def test_a_reward_of_minus_infinity_is_a_ban() -> None:
    def never(text: str) -> float:
        return float("-inf") if "d" in text else 0.0

    for model in MODELS:
        found = searched(Deal(num_beams=2, branches=6, lookahead=0), model, PROMPT, scorer=never)
        assert "d" not in found.text


def test_candidates_are_the_best_tokens_and_the_ends_among_them() -> None:
    logprobs = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    assert candidates_of(logprobs, 2, frozenset({0})) == [0, 1, 2]
    assert candidates_of(logprobs, 2, frozenset({3})) == [0, 1]
    assert candidates_of(logprobs, 3, frozenset({2, 4})) == [0, 1, 2, 3]


def test_options_out_of_range_are_refused() -> None:
    for options in ({"keep": "word"}, {"weight": -1.0}, {"num_beams": 0}, {"lookahead": -1}):
        with pytest.raises(OptionError):
            Deal(**options)
    with pytest.raises(OptionError, match="needs a scorer"):
        searched(Deal(), MODELS[0], PROMPT)


@pytest.mark.parametrize("keep", ["token", "segment"])
def test_beams_of_earlier_steps_are_the_result_of_a_search_that_is_stopped(keep: str) -> None:
    """As when the scorer fails while the second step is judged."""
    own = Deal(num_beams=3, lookahead=2, keep=keep)
    found = searched(own, MODELS[0], PROMPT, scorer=Counted(fails_at=6), max_new_tokens=LENGTH)
    assert "no reward today" in found.stopped and 0 < len(found.candidates) <= 3
    for one in found.candidates:
        assert 0 < len(one.token_ids) <= 3
        assert one.finish_reason == ("stop" if one.token_ids[-1] == END else "unfinished")
    scores = [one.score for one in found.candidates]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("keep", ["token", "segment"])
@pytest.mark.parametrize("standardise", [True, False])
def test_rewards_that_refuse_every_text_choose_nothing(keep: str, standardise: bool) -> None:
    """The search goes on, and the texts have the reward that they were given."""
    own = Deal(num_beams=2, lookahead=2, keep=keep, standardise=standardise)
    found = searched(
        own, MODELS[0], PROMPT, scorer=lambda text: float("-inf"), max_new_tokens=LENGTH
    )
    assert found.candidates and not found.stopped
    shown = found.best.to_dict()
    assert shown["score"] is None and shown["about"]["reward"] is None
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize("beams", [1, 2])
def test_nothing_that_is_allowed_is_an_error(beams: int) -> None:
    with pytest.raises(LogitsError, match="no token is allowed"):
        searched(
            Deal(num_beams=beams), MODELS[0], PROMPT, scorer=reward, banned_tokens=tuple(range(26))
        )
