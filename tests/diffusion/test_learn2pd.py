"""Learn2PD (arXiv 2509.25188): a trained filter, and an early end of the answer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import IntArray
from outrider.diffusion import Denoising, Diffusion
from outrider.diffusion.ending import Ending
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.rules.learned import Learned
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from outrider.diffusion.trace import Trace
from outrider.models.denoisers.filter import UnmaskingFilter
from outrider.models.denoisers.tabular import Joint, TabularDenoiser
from tests.diffusion.models import PROMPT, Drawing, PairDenoiser, answered, unmasking_filter

END = 3


@pytest.mark.method("learned")
@pytest.mark.parametrize("steps", [None, 6, 5])
def test_a_filter_that_accepts_nothing_is_the_baseline(steps: int | None) -> None:
    own = unmasking_filter(4, bias=30.0)
    learned = answered(Learned(block=4, filter=own, accept=1.0, steps=steps), 14, temperature=0.5)
    plain = answered(LowConfidence(block=4, steps=steps), 14, temperature=0.5)
    assert learned.prefix == plain.prefix
    assert [one.slots.tolist() for one in learned.trace.rounds] == [
        one.slots.tolist() for one in plain.trace.rounds
    ]


@pytest.mark.method("learned")
def test_a_filter_that_accepts_everything_needs_one_round_a_block() -> None:
    own = Learned(block=4, filter=unmasking_filter(4, bias=30.0))
    assert [len(one.slots) for one in answered(own, 10).trace.rounds] == [4, 4, 2]


@pytest.mark.method("learned")
def test_accepted_tokens_come_first_and_the_quota_of_others_follows() -> None:
    """The filter reads the best probability of all slots of the block, committed ones too."""
    seen: list[list[float]] = []

    class Spy(UnmaskingFilter):
        def __call__(self, confidences: torch.Tensor) -> torch.Tensor:
            seen.append(confidences[0].tolist())
            return torch.tensor([[0.97, 0.2, 0.97, 0.2, 0.2, 0.2]])

    plain = unmasking_filter(6)
    own = Spy(plain.weights, plain.fingerprint)
    model = PairDenoiser()
    request = Denoising(model, PROMPT, Learned(block=6, filter=own, steps=5), max_new_tokens=10)
    one = request.step()
    assert set(one.slots[:2].tolist()) == {0, 2}
    assert len(one.slots) == 4 and not {0, 2} & set(one.slots[2:].tolist())
    [left] = request.step().slots.reshape(1, -1).tolist()
    assert sorted(left + one.slots.tolist()) == [0, 1, 2, 3, 4, 5], "the quota of two is kept"
    assert all(seen[1][slot] > 0.9 for slot in one.slots.tolist())
    assert len(seen[0]) == 6 and max(seen[0]) < 0.99
    request.run()
    assert seen[2][4:] == [1.0, 1.0], "the last block is shorter"


@pytest.mark.method("learned")
def test_files_and_refusals(tmp_path: Path) -> None:
    file = tmp_path / "filter.safetensors"
    unmasking_filter(4).save(file)
    assert answered(Learned(block=4, filter=str(file), accept=0.5)).done
    with pytest.raises(OptionError, match="blocks of 4"):
        answered(Learned(filter=str(file)))
    with pytest.raises(OptionError, match="another model"):
        answered(Learned(block=4, filter=unmasking_filter(4, fingerprint="other")))
    with pytest.raises(OptionError, match="block is none"):
        answered(Learned(block=None, filter=str(file)))
    with pytest.raises(CheckpointError):
        Learned(filter=str(tmp_path / "missing"))


def ending(slots: int, words: int) -> TabularDenoiser:
    """Answers of some random words, then nothing but end tokens: the end is final."""
    random = np.random.default_rng(0)
    texts = np.full((40, slots), END, np.int64)
    texts[:, :words] = random.integers(0, END, (40, words))
    return TabularDenoiser(Joint(texts, np.ones(40)), vocab_size=END + 1, end_ids=(END,))


def written(rule: Diffusion, slots: int = 24, words: int = 9) -> tuple[list[int], Trace]:
    request = Denoising(ending(slots, words), [], rule, max_new_tokens=slots)
    return request.run()


@pytest.mark.method("low-confidence")
@pytest.mark.method("threshold")
@pytest.mark.parametrize("block", [4, 8, None])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "delayed"])
def test_an_early_end_is_the_uncut_answer_up_to_its_first_end_token(
    block: int | None, cache: str
) -> None:
    for make in (LowConfidence, Threshold):
        whole, whole_trace = written(make(block=block, cache=cache))
        cut, trace = written(make(block=block, cache=cache, early_stop=True))
        assert cut == whole and cut[-1] == END and len(cut) == 10
        assert trace.rows < whole_trace.rows or (block and trace.rows == whole_trace.rows)
        assert len(trace) <= len(whole_trace)


def test_rows_behind_the_end_are_neither_computed_nor_stored() -> None:
    class Lengths(PairDenoiser):
        def _conditionals(
            self, ids: IntArray, seen: dict[int, int], want: IntArray
        ) -> torch.Tensor:
            assert len(ids) == 3 + 12, "texts keep the length of their stores"
            lengths.append(len(seen))
            found = super()._conditionals(ids, seen, want)
            for row, position in enumerate(want.tolist()):
                if position >= 3 + 7:  # sure ends from slot 7 on
                    found[row] = -torch.inf
                    found[row, END] = 0.0
            return found

    for cache in ("none", "dual", "prefix"):
        lengths: list[int] = []
        model = Lengths(end_ids=(END,))
        rule = LowConfidence(block=4, early_stop=True, cache=cache)
        request = Denoising(model, PROMPT, rule, max_new_tokens=12)
        for _ in range(5):
            request.step()
        # Slots of the first block are wanted first; the end is seen when its block is active.
        while not request.done:
            request.step()
        assert request.ended and len(request.answer) == 8
        assert lengths[0] == 15 and lengths[-1] == 11


@dataclass
class Written:
    """What a round has committed."""

    slots: list[int]
    tokens: list[int]


def ends(slots: list[int], tokens: list[int], confident: list[float], cut: Ending) -> int:
    """What `cut` says of an answer of 8 slots, with open slots 3 to 7 and words before."""
    answer = np.array([0, 1, 0, 9, 9, 9, 9, 9])
    found = Proposals.of(torch.zeros(5, 10), np.arange(3, 8), Drawing(), 0)
    found.tokens = np.array(tokens)
    found.confident = np.array(confident)

    answer[slots] = END
    done = Written(slots, [END] * len(slots))
    return cut.cut(answer, 9, done, found)


def test_an_end_is_predicted_twice_or_committed() -> None:
    sure, unsure = [0.95] * 5, [0.8] * 5
    cut = Ending([END])
    assert ends([], [0, END, END, END, END], sure, cut) == 8, "one round is not enough"
    assert ends([], [0, 0, END, END, END], sure, cut) == 6
    assert ends([], [0, 0, END, END, END], unsure, cut) == 8
    assert ends([], [0, 0, END, END, END], sure, cut) == 8, "not in consecutive rounds"
    assert ends([5], [0, 0, 0, 0, 0], unsure, Ending([END])) == 6
    assert ends([6, 4], [0, 0, 0, 0, 0], unsure, Ending([END])) == 5


def test_no_end_left_of_a_committed_word() -> None:
    answer = np.array([9, END, 9, 1, 9, 9])
    found = Proposals.of(torch.zeros(4, 10), np.array([0, 2, 4, 5]), Drawing(), 0)
    found.tokens, found.confident = np.array([END, END, 0, END]), np.full(4, 0.99)

    cut = Ending([END])
    assert cut.cut(answer, 9, Written([1], [END]), found) == 6
    nothing = Written([], [])
    assert cut.cut(answer, 9, nothing, found) == 6, "slot 5 is the last one"
    found.tokens = np.array([END, END, END, END])
    cut.cut(answer, 9, nothing, found)
    assert cut.cut(answer, 9, nothing, found) == 5
