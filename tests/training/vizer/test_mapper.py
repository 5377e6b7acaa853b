import dataclasses
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from outrider.core.errors import OptionError
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.mapper import Mapper, Vectors, mapper_figures, train_mapper
from outrider.training.vizer.vizer import learning_rate, shuffled

CONFIG = VizerConfig(
    mapper_epochs=30, mapper_learning_rate=3e-3, mapper_width=32, held_out=64, seed=3
)


def world(count: int, seed: int) -> Vectors:
    """States that tell of features through a fixed random map, with noise; features share a mean
    far from zero, as those of real encoders do."""
    draw = torch.Generator().manual_seed(seed)
    ways = torch.Generator().manual_seed(0)
    mean, out = torch.randn(12, generator=ways) * 3, torch.randn(6, 12, generator=ways)
    into = torch.randn(6, 20, generator=ways)
    topic = torch.randn(count, 6, generator=draw)
    states = torch.tanh(topic @ into) + 0.1 * torch.randn(count, 20, generator=draw)
    return Vectors(states, mean + topic @ out)


def test_training_lowers_the_loss_and_lifts_retrieval_far_above_chance() -> None:
    _, found = train_mapper(world(512, 1), CONFIG, world(128, 2))
    assert found["loss"] < 0.5 * found["loss_untrained"]
    assert found["retrieval"] > 10 * found["chance"]
    assert found["retrieval_untrained"] < 4 * found["chance"]


@pytest.mark.parametrize("loss", ["cosine", "infonce"])
def test_shuffled_pairs_teach_nothing(loss: str) -> None:
    config = dataclasses.replace(CONFIG, loss=loss)
    data = world(512, 1)
    _, found = train_mapper(shuffled(data, config), config, world(128, 2))
    assert found["retrieval"] < 4 * found["chance"]
    assert found["cosine"] < 0.2
    moved = (shuffled(data, config).features != data.features).any(dim=1).float().mean()
    assert moved > 0.9


def test_a_constant_answer_scores_worse_on_centred_features() -> None:
    """Without centring the mean image is nearly right about everything: that is the trap."""
    _, centred = train_mapper(world(512, 1), CONFIG, world(128, 2))
    assert centred["cosine_constant"] < 0.2 < 0.6 < centred["cosine"]
    plain = dataclasses.replace(CONFIG, centre=False)
    _, raw = train_mapper(world(512, 1), plain, world(128, 2))
    assert raw["cosine_constant"] > 0.7


def test_infonce_leaves_a_constant_answer_at_chance() -> None:
    config = dataclasses.replace(CONFIG, loss="infonce")
    held_out = world(64, 2)
    mapper = Mapper(20, 8, 12)
    torch.nn.init.zeros_(mapper.outer.weight)
    found = mapper_figures(mapper, held_out, config)
    assert found["loss"] == pytest.approx(torch.log(torch.tensor(64.0)).item(), abs=1.0)
    assert found["retrieval"] == pytest.approx(found["chance"], abs=1e-6)


def test_its_answers_are_unit_vectors_and_the_same_seed_gives_the_same_mapper() -> None:
    first, _ = train_mapper(world(96, 1), CONFIG, world(64, 2))
    second, _ = train_mapper(world(96, 1), CONFIG, world(64, 2))
    states = world(8, 5).states
    assert torch.equal(first(states), second(states))
    assert torch.allclose(first(states).norm(dim=1), torch.ones(8), atol=1e-5)
    assert not any(p.requires_grad for p in first.parameters())
    assert torch.allclose(first.centre, world(96, 1).features.mean(dim=0))


def test_the_loss_is_the_papers() -> None:
    config = dataclasses.replace(CONFIG, centre=False)
    mapper, data = Mapper(20, 8, 12), world(5, 4)
    hidden = F.gelu(mapper.inner(F.layer_norm(data.states, (20,), mapper.norm.weight)))
    cosines = F.cosine_similarity(mapper.outer(hidden), data.features)
    assert torch.allclose(mapper.loss(data.states, data.features, config), (1 - cosines).mean())


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = VizerConfig(learning_rate=1.0)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 3)
    assert max(rates) == 1.0
    assert rates[2] == 1.0
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[3:]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "gg"},
        {"loss": "cos"},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"dropout": 1.0},
        {"kappa": -1.0},
        {"question": " "},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        VizerConfig(**wrong)  # pyright: ignore[reportArgumentType]
