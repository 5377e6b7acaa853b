"""Constraints of answers that are written in any order."""

import numpy as np
import pytest

from outrider.core.errors import GrammarError, OptionError
from outrider.core.types import IntArray
from outrider.diffusion import Completable, Denoising, Drawing
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from tests.diffusion.models import PROMPT, RULES, PairDenoiser

MASK = 6


class Sorted:
    """Answers whose tokens never decrease, completed with the token before each gap."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def allows(self, answer: IntArray) -> bool:
        """Whether the committed tokens never decrease."""
        self.asked.append(answer.tolist())
        held = answer[answer != MASK]
        return bool((np.diff(held) >= 0).all())

    def complete(self, answer: IntArray) -> IntArray | None:
        """Fill each gap with the token before it."""
        found, last = answer.copy(), 0
        for slot in range(len(found)):
            last = found[slot] = last if found[slot] == MASK else found[slot]
        return found


class Nothing(Sorted):
    """Allows the empty answer only, and knows no ending."""

    def allows(self, answer: IntArray) -> bool:
        return bool((answer == MASK).all())

    def complete(self, answer: IntArray) -> IntArray | None:
        return None


class Short(Nothing):
    """Allows nothing after two tokens, and ends with a shorter or longer answer."""

    def __init__(self, ending: list[int]) -> None:
        super().__init__()
        self.ending = ending

    def allows(self, answer: IntArray) -> bool:
        return int((answer != MASK).sum()) <= 2

    def complete(self, answer: IntArray) -> IntArray | None:
        return np.array([*answer[answer != MASK].tolist(), *self.ending])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_commit_keeps_the_answer_allowed(name: str, temperature: float) -> None:
    for seed in range(4):
        constraint = Sorted()
        request = Denoising(
            PairDenoiser(seed=seed),
            PROMPT,
            RULES[name](block=4),
            max_new_tokens=10,
            drawing=Drawing(temperature=temperature, seed=seed),
            constraint=constraint,
        )
        refused = 0
        while not request.done:
            before = request.answer.copy()
            one = request.step()
            refused += one.refused
            assert len(one.slots) or one.completed
            held = before != MASK
            assert (request.answer[held] == before[held]).all()
            assert Sorted().allows(request.answer)
        tokens = request.prefix
        assert tokens == sorted(tokens) and len(tokens) == 10
        assert refused > 0, "the model would write other answers"


def test_one_token_is_asked_about_at_a_time() -> None:
    constraint = Sorted()
    rule = Threshold(block=4, threshold=0.3)
    request = Denoising(PairDenoiser(), PROMPT, rule, max_new_tokens=8, constraint=constraint)
    request.run()
    held = 0
    for answer in constraint.asked[1:]:
        now = sum(token != MASK for token in answer)
        assert now <= held + 1
        held = max(held, now)


def test_a_constraint_that_allows_everything_changes_nothing() -> None:
    class Anything(Sorted):
        def allows(self, answer: IntArray) -> bool:
            return True

    assert isinstance(Anything(), Completable)
    for name, make in RULES.items():
        runs = [
            Denoising(
                PairDenoiser(),
                PROMPT,
                make(block=4),
                max_new_tokens=12,
                drawing=Drawing(temperature=0.6, seed=2),
                constraint=constraint,
            ).run()
            for constraint in (None, Anything())
        ]
        assert runs[0][0] == runs[1][0], name
        assert runs[0][1].slots == runs[1][1].slots, name


def test_a_refused_token_gives_way_to_the_next_best_one() -> None:
    class Odd(Sorted):
        def allows(self, answer: IntArray) -> bool:
            return not np.isin(answer, [0, 2, 4]).any()

    request = Denoising(
        PairDenoiser(), PROMPT, LowConfidence(block=4), max_new_tokens=4, constraint=Odd()
    )
    tokens, trace = request.run()
    assert set(tokens) <= {1, 3, 5}
    banned = Denoising(
        PairDenoiser(),
        PROMPT,
        LowConfidence(block=4),
        max_new_tokens=4,
        drawing=Drawing(banned_tokens=(0, 2, 4)),
    )
    assert len(trace.slots) == len(banned.run()[1].slots)
    assert all(one.probs[0] < 1 for one in trace.rounds)


@pytest.mark.parametrize("ending", [[5], [5] * 9])
def test_when_refusals_run_out_the_witness_ends_the_answer(ending: list[int]) -> None:
    request = Denoising(
        PairDenoiser(),
        PROMPT,
        LowConfidence(block=1),
        max_new_tokens=6,
        constraint=Short(ending),
    )
    tokens, trace = request.run()
    assert len(trace) == 3 and request.completed and request.done
    assert tokens[2:] == ending
    last = trace.rounds[-1]
    assert last.completed == len(ending) and last.refused == 6, "all tokens of the slot"
    assert len(last.slots) == 0 and trace.tokens == 2


def test_at_most_a_hundred_refusals_a_round() -> None:
    class Large(PairDenoiser):
        def __init__(self) -> None:
            super().__init__(vocab_size=150)

    class Never(Short):
        def allows(self, answer: IntArray) -> bool:
            return bool((answer == 150).all())

        def complete(self, answer: IntArray) -> IntArray | None:
            return np.array([1, 2])

    request = Denoising(Large(), [], LowConfidence(), max_new_tokens=3, constraint=Never([]))
    assert request.run()[0] == [1, 2]
    assert request.trace.rounds[0].refused == 100


def test_constraints_without_an_ending() -> None:
    request = Denoising(
        PairDenoiser(), PROMPT, LowConfidence(), max_new_tokens=4, constraint=Nothing()
    )
    with pytest.raises(GrammarError, match="knows no ending"):
        request.run()

    class Rewrites(Short):
        def complete(self, answer: IntArray) -> IntArray | None:
            return np.array([0, 0, 0, 0])

    bad = Denoising(
        PairDenoiser(), PROMPT, LowConfidence(block=1), max_new_tokens=4, constraint=Rewrites([])
    )
    with pytest.raises(GrammarError):
        bad.run()
    with pytest.raises(OptionError, match="fixed tokens"):
        Denoising(
            PairDenoiser(),
            PROMPT,
            LowConfidence(),
            max_new_tokens=4,
            fixed={0: 1},
            constraint=Nothing(),
        )


def test_a_round_that_has_committed_something_ends_without_the_witness() -> None:
    """Each round commits one slot, then all tokens of the second one are refused."""

    class OneEach(Short):
        def __init__(self) -> None:
            super().__init__([])
            self.limit = 1

        def allows(self, answer: IntArray) -> bool:
            return int((answer != MASK).sum()) <= self.limit

    constraint = OneEach()
    rule = Threshold(block=4, threshold=0.0)
    request = Denoising(PairDenoiser(), PROMPT, rule, max_new_tokens=4, constraint=constraint)
    while not request.done:
        one = request.step()
        assert len(one.slots) == 1 and one.completed == 0
        constraint.limit += 1
    assert len(request.trace) == 4 and not request.completed
