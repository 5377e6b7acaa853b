"""Transfer Q*: tokens by the reward of what an aligned model writes after them."""

import math

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.drafters import NoDrafter
from outrider.models.tabular import TabularModel
from outrider.search import Limits
from outrider.search.steps.transfer_q import TransferQ, indirect, tilted
from outrider.testing.rigs import finish, generation, stage, tabular_family
from outrider.testing.searches import END, LetterCodec, searched

pytestmark = pytest.mark.method("transfer-q")

FAMILIES = [tabular_family(seed=seed) for seed in range(4)]
PROMPT = (1, 2, 3)
LENGTH = 9
DECODE = LetterCodec().decode


def reward(text: str) -> float:
    return text.count("d") + 1.5 * text.count("f") - text.count("c")


def other(text: str) -> float:
    return 0.8 * text.count("f") + 0.7 * text.count("b")


def row(model, text) -> torch.Tensor:
    return model.logits_after((*PROMPT, *text)).log_softmax(-1)


def greedy(model, text, count) -> tuple[int, ...]:
    while count and len(text) < LENGTH and text[-1:] != (END,):
        text, count = (*text, int(row(model, text).argmax())), count - 1
    return text


def by_hand(model, aligned, weight, branches, length, *, baseline=None, beta=2.0):
    """The text of the definition, and the rewards of its last candidates."""
    text: tuple[int, ...] = ()
    while len(text) < LENGTH and text[-1:] != (END,):
        own = row(model, text)
        tokens = own.topk(branches).indices.tolist()
        texts = [DECODE(greedy(aligned, (*text, token), length)) for token in tokens]
        values = [reward(one) for one in texts]
        if baseline is not None:
            least = min(values)
            values = [
                (value - least) * math.exp((value - baseline(one)) / beta)
                for value, one in zip(values, texts, strict=True)
            ]
        scores = [float(own[t]) + weight * v for t, v in zip(tokens, values, strict=True)]
        text = (*text, tokens[scores.index(max(scores))])
    return text


@pytest.mark.parametrize("baseline", [None, other])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("weight", "branches", "length"), [(1.0, 4, 3), (0.4, 7, 5), (2.0, 3, 0)])
def test_the_text_is_that_of_the_definition(weight, branches, length, second, baseline) -> None:
    differ = 0
    for family in FAMILIES:
        aligned = family.draft if second else family.target
        strategy = TransferQ(
            weight=weight,
            branches=branches,
            lookahead=length,
            aligned=aligned if second else None,
            baseline=baseline,
        )
        found = searched(strategy, family.target, PROMPT, scorer=reward, max_new_tokens=LENGTH)
        text = by_hand(family.target, aligned, weight, branches, length, baseline=baseline)
        assert found.best.token_ids == text
        assert found.best.score == found.best.about["reward"] == pytest.approx(reward(DECODE(text)))
        total = sum(float(row(family.target, text[:i])[token]) for i, token in enumerate(text))
        assert found.best.logprob == pytest.approx(total)
        differ += text != greedy(family.target, (), LENGTH)
    assert differ >= 2


def test_the_second_model_decides_by_its_own_continuations() -> None:
    texts = [
        {
            searched(
                TransferQ(lookahead=4, aligned=aligned),
                family.target,
                PROMPT,
                scorer=reward,
                ignore_eos=True,
            ).best.token_ids
            for aligned in (None, family.target, family.draft)
        }
        for family in FAMILIES
    ]
    assert all(len(own) <= 2 for own in texts)  # None is the target itself
    assert any(len(own) == 2 for own in texts)


def test_a_weight_of_0_is_the_target() -> None:
    for family in FAMILIES:
        found = searched(TransferQ(weight=0.0), family.target, PROMPT, max_new_tokens=LENGTH)
        assert found.best.token_ids == greedy(family.target, (), LENGTH)
        drawn = searched(TransferQ(weight=0.0, branches=3), family.target, PROMPT, temperature=0.9)
        plain = generation(
            PROMPT, end_ids=(END,), temperature=0.9, top_k=3, max_new_tokens=12, seed=5
        )
        finish(stage(family.target, NoDrafter()), [plain])
        assert list(drawn.best.token_ids) == plain.output


def test_with_equal_rewards_indirect_equals_direct() -> None:
    for family in FAMILIES:
        for temperature in (0.0, 0.8):
            direct, again = (
                searched(
                    TransferQ(lookahead=4, baseline=baseline),
                    family.target,
                    PROMPT,
                    scorer=reward,
                    temperature=temperature,
                )
                for baseline in (None, reward)
            )
            assert direct.best.token_ids == again.best.token_ids


def test_the_distance_to_the_target_grows_with_the_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        own = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
        values = torch.randn(6, generator=generator, dtype=torch.float64).tolist()
        distances = []
        for weight in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0):
            policy = torch.tensor(tilted(own.tolist(), values, weight), dtype=torch.float64)
            assert float(policy.exp().sum()) == pytest.approx(1.0)
            distances.append(float((policy.exp() * (policy - own)).sum()))
        assert distances == sorted(distances)
        assert distances[0] == pytest.approx(0.0, abs=1e-12) and distances[-1] > distances[1]


def test_adding_a_constant_to_the_reward_leaves_the_direct_choice() -> None:
    for family in FAMILIES:
        texts = {
            searched(
                TransferQ(lookahead=3),
                family.target,
                PROMPT,
                scorer=lambda text, shift=shift: reward(text) + shift,
            ).best.token_ids
            for shift in (0.0, -50.0, 7.0)
        }
        assert len(texts) == 1


def test_a_better_importance_weight_never_makes_a_negative_reward_worse() -> None:
    """The public formula gives -5 * exp(2) for the second, the more negative one."""
    values = indirect([-6.0, -5.0, -5.0], [-6.0, -5.0, -9.0], 2.0)
    assert values[2] > values[1] > values[0] == 0.0
    shifted = indirect([94.0, 95.0, 95.0], [94.0, 95.0, 91.0], 2.0)
    assert shifted == pytest.approx(values)
    assert indirect([1.0, -math.inf], [1.0, 0.0], 2.0) == [0.0, -math.inf]


def test_infinite_rewards_leave_a_policy() -> None:
    assert tilted([-1.0, -2.0], [-math.inf, -math.inf], 1.0)[0] == pytest.approx(math.log(0.5))
    found = tilted([-1.0, -2.0], [0.0, math.inf], 1.0)
    assert found[1] == pytest.approx(0.0) and found[0] < -100


def test_the_temperature_draws_from_the_policy() -> None:
    """The first token has the probabilities of the definition."""
    model = FAMILIES[1].target
    own = row(model, ())
    tokens = own.topk(3).indices.tolist()
    values = [reward(DECODE(greedy(model, (token,), 2))) for token in tokens]
    scores = [float(own[t]) + 0.5 * v for t, v in zip(tokens, values, strict=True)]
    expected = (torch.tensor(scores, dtype=torch.float64) / 0.7).softmax(-1).tolist()
    counts = dict.fromkeys(tokens, 0)
    runs = 300
    for seed in range(runs):
        found = searched(
            TransferQ(weight=0.5, branches=3, lookahead=2),
            model,
            PROMPT,
            scorer=reward,
            temperature=0.7,
            seed=seed,
            max_new_tokens=3,
        )
        counts[found.best.token_ids[0]] += 1
    for token, chance in zip(tokens, expected, strict=True):
        spread = math.sqrt(chance * (1 - chance) / runs)
        assert abs(counts[token] / runs - chance) < 4 * spread + 1e-9


def test_the_chosen_branch_is_not_read_again() -> None:
    for family in FAMILIES:
        found = searched(
            TransferQ(branches=3, lookahead=4),
            family.target,
            PROMPT,
            scorer=reward,
            ignore_eos=True,
            max_new_tokens=10,
        )
        assert found.forwards <= 1 + 9 * 4 and found.tokens <= 1 + 9 * 4 * 3
        assert found.scorer_calls == 30


def test_a_stopped_search_has_no_reward_of_its_text() -> None:
    """The last reward was that of a continuation."""
    found = searched(
        TransferQ(branches=3, lookahead=4),
        FAMILIES[0].target,
        PROMPT,
        scorer=reward,
        ignore_eos=True,
        limits=Limits(tokens=30),
    )
    assert found.stopped and found.best.finish_reason == "unfinished"
    assert found.best.about["reward"] is None
    assert found.best.logprob is not None
    assert found.best.score == found.best.logprob / len(found.best.token_ids)


def test_what_cannot_be_used_is_refused() -> None:
    target = FAMILIES[0].target
    for options in ({"weight": -1.0}, {"branches": 0}, {"lookahead": -1}, {"beta": 0.0}):
        with pytest.raises(OptionError):
            TransferQ(**options)
    with pytest.raises(OptionError, match="needs a scorer"):
        searched(TransferQ(), target, PROMPT)
    small = TabularModel.random(vocab_size=5)
    with pytest.raises(OptionError, match="5 tokens, and the target has 7"):
        searched(TransferQ(aligned=small), target, PROMPT, scorer=reward)
    assert (TransferQ().length, TransferQ(baseline=other).length) == (20, 5)
