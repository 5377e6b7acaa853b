"""What holds for every rule: prompts and committed tokens, blocks, ends, edges."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import ContextError, LogitsError, OptionError
from outrider.diffusion import Denoising, Drawing, Round
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.rules.low_confidence import LowConfidence
from outrider.diffusion.rules.threshold import Threshold
from outrider.models.denoisers.tabular import Joint, TabularDenoiser
from outrider.protocols.denoiser import Denoiser, Reading
from outrider.sampling import SamplingParams
from tests.diffusion.models import PROMPT, RULES, PairDenoiser, answered


class Watching(PairDenoiser):
    """Checks that texts only change from masks to tokens."""

    def __init__(self, **more: int) -> None:
        super().__init__(**more)
        self.texts: list[np.ndarray] = []

    def read(self, readings: list[Reading]) -> list[torch.Tensor]:
        self.texts.append(readings[0].ids.copy())
        return super().read(readings)


@given(
    name=st.sampled_from([*RULES]),
    slots=st.integers(1, 14),
    block=st.integers(1, 9),
    prompt=st.integers(0, 3),
    temperature=st.sampled_from([0.0, 0.7]),
    cache=st.sampled_from(["none", "prefix", "dual", "delayed", "prompt"]),
    suppress=st.sampled_from(["none", "confidence"]),
    seed=st.integers(0, 50),
)
def test_any_rule_writes_every_slot_once(
    name: str,
    slots: int,
    block: int,
    prompt: int,
    temperature: float,
    cache: str,
    suppress: str,
    seed: int,
) -> None:
    model = Watching(seed=seed)
    rule = RULES[name](block=block, cache=cache, suppress=suppress)
    request = Denoising(
        model,
        PROMPT[:prompt],
        rule,
        max_new_tokens=slots,
        drawing=Drawing(temperature=temperature, seed=seed),
    )
    rounds = 0
    while not request.done:
        before = request.answer.copy()
        active = int(request.open_slots[0]) // block
        one = request.step()
        rounds += 1
        assert len(one.slots) >= 1, "a round commits at least one token"
        held = before != model.mask_id
        assert (request.answer[held] == before[held]).all(), "committed tokens never change"
        assert request.answer[one.slots].tolist() == one.tokens.tolist()
        reach = active + (2 if name == "explore" else 1)
        assert (one.slots < reach * block).all(), "nothing is written behind the window"
        assert one.forwards == (1 if name != "explore" else one.forwards)
        assert (one.probs > 0).all() and (one.probs <= 1 + 1e-12).all()
    tokens, trace = request.prefix, request.trace
    assert len(tokens) == slots and model.mask_id not in tokens
    assert sorted(trace.slots) == list(range(slots))
    assert rounds == len(trace) <= slots
    assert trace.tokens == slots
    assert trace.forwards == model.forwards and trace.rows == model.rows
    for text in model.texts:
        assert text[:prompt].tolist() == list(PROMPT[:prompt]), "the prompt never changes"
    assert len(trace) >= trace.least_rounds()


@pytest.mark.parametrize("name", RULES)
def test_equal_seeds_give_equal_answers_in_any_turn(name: str) -> None:
    rule = RULES[name](block=4)
    alone = [answered(rule, temperature=0.8, seed=seed) for seed in (1, 2)]
    assert alone[0].prefix != alone[1].prefix
    model = PairDenoiser()
    both = [
        Denoising(
            model, PROMPT, rule, max_new_tokens=12, drawing=Drawing(temperature=0.8, seed=seed)
        )
        for seed in (1, 2)
    ]
    while not all(one.done for one in both):
        for one in both:
            if not one.done:
                one.step()
    assert [one.prefix for one in both] == [one.prefix for one in alone]


def test_the_prefix_grows_and_is_final() -> None:
    request = Denoising(PairDenoiser(), PROMPT, RULES["explore"](block=4), max_new_tokens=16)
    seen: list[list[int]] = [request.prefix]
    while not request.done:
        request.step()
        seen.append(request.prefix)
    assert seen[0] == [] and len(seen[-1]) == 16
    for earlier, later in pairwise(seen):
        assert later[: len(earlier)] == earlier


def test_an_end_token_without_a_gap_before_it_ends_the_answer() -> None:
    model = PairDenoiser(end_ids=(4,))
    whole = Denoising(model, PROMPT, LowConfidence(block=4), max_new_tokens=20, end_ids=())
    tokens, trace = whole.run()
    assert 4 in tokens[:-4]
    request = Denoising(model, PROMPT, LowConfidence(block=4), max_new_tokens=20)
    assert request.run()[0] == tokens[: tokens.index(4) + 1]
    assert request.ended and len(request.trace) < len(trace)


def test_one_slot_and_an_empty_prompt() -> None:
    for name, make in RULES.items():
        request = Denoising(PairDenoiser(), [], make(block=2), max_new_tokens=1)
        tokens, trace = request.run()
        assert len(tokens) == 1 and len(trace) == 1, name
        with pytest.raises(RuntimeError, match="complete"):
            request.step()


def test_a_prompt_as_long_as_the_window_is_refused() -> None:
    model = PairDenoiser(context_length=5)
    rule = Threshold(block=4)
    assert len(Denoising(model, PROMPT, rule, max_new_tokens=9).run()[0]) == 2
    with pytest.raises(ContextError, match="5 tokens, and the window 5"):
        Denoising(model, [1] * 5, rule)
    with pytest.raises(OptionError, match="max_new_tokens is 0"):
        Denoising(model, [1], rule, max_new_tokens=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["threshold", "learned", "explore"])
def test_logits_that_are_no_numbers_end_the_request_with_an_error(name: str, bad: float) -> None:
    class Broken(PairDenoiser):
        def read(self, readings: list[Reading]) -> list[torch.Tensor]:
            found = super().read(readings)
            if self.forwards > 1:
                found[0][-1, 2] = bad
            return found

    request = Denoising(Broken(), PROMPT, RULES[name](block=4), max_new_tokens=24)
    with pytest.raises(LogitsError, match="NaN"):
        request.run()
    assert len(request.trace) <= 1


def test_a_mask_is_never_committed() -> None:
    """Although the model prefers it."""

    class Insisting(PairDenoiser):
        def read(self, readings: list[Reading]) -> list[torch.Tensor]:
            found = super().read(readings)
            for one in found:
                one[:, self.mask_id] = 1e4
            return found

    for make in RULES.values():
        model = Insisting()
        assert model.mask_id not in Denoising(model, PROMPT, make(block=4)).run()[0]


def test_guidance_is_the_difference_to_a_masked_prompt() -> None:
    """By hand, for the first round: u + (s + 1)(l - u)."""
    model, scale = PairDenoiser(), 1.5
    rule = LowConfidence(block=4, guidance=scale)
    request = Denoising(model, PROMPT, rule, max_new_tokens=4)
    one = request.step()
    assert one.forwards == 1 and one.rows == 14
    texts = [[*prompt, *[model.mask_id] * 4] for prompt in (PROMPT, [model.mask_id] * 3)]
    want = np.arange(3, 7)
    given, free = model.read([Reading(ids=np.array(text), want=want) for text in texts])
    given[:, model.mask_id] = free[:, model.mask_id] = 0.0
    mixed = free + (scale + 1) * (given - free)
    mixed[:, model.mask_id] = -torch.inf
    best = torch.log_softmax(mixed, -1).amax(-1)
    assert one.slots.tolist() == [int(best.argmax())]
    assert one.logprobs[0] == pytest.approx(float(best.max()))
    assert answered(rule).prefix != answered(LowConfidence(block=4)).prefix


def test_guidance_of_impossible_tokens() -> None:
    """A joint with zeros, where logits are minus infinity with or without the prompt."""
    table = torch.zeros(3, 3, 3, dtype=torch.float64)
    table[0, 1, 2] = table[1, 2, 2] = 1.0
    table[2, 0, 0] = 2.0
    model = TabularDenoiser(Joint.of(table), vocab_size=3)
    tokens, _ = Denoising(model, [0], LowConfidence(guidance=2.0), max_new_tokens=2).run()
    assert tokens == [1, 2]


@pytest.mark.parametrize("cache", ["prefix", "dual", "delayed", "prompt"])
def test_guided_texts_have_stores_of_their_own(cache: str) -> None:
    """In a model of one layer, caches of whole texts change nothing."""
    rules = [
        Threshold(block=4, threshold=0.6, guidance=1.0, cache=name) for name in ("none", cache)
    ]
    plain, cached = (answered(rule, slots=14) for rule in rules)
    assert cached.prefix == plain.prefix and cached.trace.slots == plain.trace.slots
    assert cached.trace.rows < plain.trace.rows


def test_end_tokens_can_be_suppressed() -> None:
    """They are never chosen, or their slots are committed when no other token is proposed."""

    def rounds(suppress: str) -> list[int]:
        rule = LowConfidence(block=20, suppress=suppress)
        model = PairDenoiser(seed=3, end_ids=(4, 5))
        request = Denoising(model, PROMPT, rule, max_new_tokens=20)
        return [int(token) for one in _all(request) for token in one.tokens]

    def ends(tokens: list[int]) -> list[int]:
        return [place for place, token in enumerate(tokens) if token in (4, 5)]

    assert ends(rounds("logit")) == [] and len(rounds("logit")) == 20
    free, late = ends(rounds("none")), ends(rounds("confidence"))
    assert free and (not late or late[0] > free[0])
    found = Proposals.of(torch.eye(3), np.arange(3), Drawing(), 0, late=(1,))
    assert found.ranked().tolist() == [0, 2, 1] and found.confident[1] == 0.0


def _all(request: Denoising) -> list[Round]:
    while not request.done:
        request.step()
    return request.trace.rounds


def test_settings_of_a_request() -> None:
    params = SamplingParams(temperature=0.3, top_p=0.9, banned_tokens=(2,), seed=7)
    drawing = Drawing.of(params, seed=3)
    assert (drawing.temperature, drawing.top_p, drawing.seed) == (0.3, 0.9, 7)
    assert Drawing.of(SamplingParams(), seed=3).seed == 3
    for refused in ({"presence_penalty": 0.5}, {"stop": ("x",)}, {"logprobs": 2}):
        with pytest.raises(OptionError, match="any order"):
            Drawing.of(SamplingParams(**refused))
    tokens, _ = Denoising(PairDenoiser(), PROMPT, Threshold(), drawing=drawing).run()
    assert 2 not in tokens
    with_bias = Drawing(logit_bias={3: 50.0})
    assert set(Denoising(PairDenoiser(), PROMPT, Threshold(), drawing=with_bias).run()[0]) == {3}


def test_options_are_checked() -> None:
    for wrong in ({"block": 0}, {"cache": "dule"}, {"refresh": -1}, {"guidance": -1.0}):
        with pytest.raises(OptionError):
            Threshold(**wrong)
    with pytest.raises(OptionError, match="suppress"):
        Threshold(suppress="both")
    with pytest.raises(OptionError, match="greedy needs an order"):
        Threshold(cache="greedy")
    with pytest.raises(OptionError, match="3 blocks"):
        Denoising(PairDenoiser(), [], LowConfidence(block=4, steps=2), max_new_tokens=12)
    assert isinstance(PairDenoiser(), Denoiser)
