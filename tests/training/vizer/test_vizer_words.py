"""ViZer through words: nothing can be gained but by what a caption says."""

import dataclasses
from pathlib import Path

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.training.vizer.captioner import TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.mapper import Mapper
from outrider.training.vizer.vizer import (
    Mappers,
    _log_likelihoods,
    _scores,
    adapt_step,
    make_optimizer,
    read_as_text,
)
from tests.models.setups.vision_checkpoints import make_vision_checkpoint, picture

CONFIG = VizerConfig(
    through="words",
    samples=4,
    rank=8,
    alpha=16,
    dropout=0.0,
    kappa=0.0,
    longest=3,
    batch=2,
    learning_rate=0.02,
    seed=1,
    device="cpu",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_checkpoint(tmp_path_factory.mktemp("idefics3"), "idefics3", std=0.15)


class PrefersFirst(Mapper):
    """A judge that likes texts by one number of what they are read as."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        first = torch.sigmoid(4 * states[:, :1])
        return torch.nn.functional.normalize(
            torch.cat((first, 1 - first, 0 * first.expand(-1, self.centre.numel() - 2)), dim=1),
            dim=1,
        )

    def aims(self, features: torch.Tensor) -> torch.Tensor:
        aim = torch.zeros_like(features)
        aim[:, 0] = 1.0
        return aim


def test_what_the_judge_likes_becomes_likelier(folder: Path) -> None:
    """The score of sampled captions rises under a judge with a simple taste, and it is the words
    that change: they are read by the base, without the image."""
    captioner = TrainableCaptioner.load(folder, CONFIG, torch.device("cpu"))
    image_batch = captioner.evaluation([picture(16, 16, seed=i) for i in range(2)])
    judge = PrefersFirst(captioner.hidden_size, 4, image_batch.features.shape[1])
    mappers = Mappers(judge, judge, {})
    optimizer = make_optimizer(captioner)
    prompts = [p for p in image_batch.prompts for _ in range(32)]

    def liked() -> float:
        ids = captioner.write(prompts, temperature=1.0, seed=99)
        return float(judge(read_as_text(captioner, ids))[:, 0].mean())

    before = liked()
    for step in range(25):
        adapt_step(captioner, mappers, optimizer, image_batch, None, step=step, steps=100)
    assert liked() > before + 0.05


def test_gradients_reach_lora_alone(folder: Path) -> None:
    captioner = TrainableCaptioner.load(folder, CONFIG, torch.device("cpu"))
    image_batch = captioner.evaluation([picture(16, 16, seed=i) for i in range(2)])
    judge = Mapper(captioner.hidden_size, 4, image_batch.features.shape[1])
    frozen = {n: p.clone() for n, p in captioner.adapted.named_parameters() if not p.requires_grad}
    adapt_step(
        captioner,
        Mappers(judge, judge, {}),
        make_optimizer(captioner),
        image_batch,
        None,
        step=0,
        steps=3,
    )
    assert all(p.grad is None for p in judge.parameters())
    named = dict(captioner.adapted.named_parameters())
    assert all(torch.equal(named[name], weight) for name, weight in frozen.items())


def test_a_judge_without_a_preference_teaches_nothing(folder: Path) -> None:
    """Equal scores have no better one: LoRA stays where it is, whatever was sampled."""
    captioner = TrainableCaptioner.load(folder, CONFIG, torch.device("cpu"))
    image_batch = captioner.evaluation([picture(16, 16, seed=i) for i in range(2)])
    judge = Mapper(captioner.hidden_size, 4, image_batch.features.shape[1])
    torch.nn.init.zeros_(judge.outer.weight)
    found = adapt_step(
        captioner,
        Mappers(judge, judge, {}),
        make_optimizer(captioner),
        image_batch,
        None,
        step=5,
        steps=9,
    )
    assert found["grad_norm"] == pytest.approx(0.0, abs=1e-4)


def test_likelihoods_are_those_of_the_model_and_count_the_end(folder: Path) -> None:
    captioner = TrainableCaptioner.load(folder, CONFIG, torch.device("cpu"))
    image_batch = captioner.evaluation([picture(16, 16, seed=0)])
    ids = [[5, 6]]
    with torch.no_grad():
        caption_states = captioner.read(image_batch.prompts, ids)
        found = _log_likelihoods(captioner, captioner.logits(caption_states), ids, 1.0)
        probs = captioner.logits(caption_states).log_softmax(dim=-1)
    end = max(captioner.ends)
    assert float(found[0]) == pytest.approx(
        float(probs[0, 5] + probs[1, 6] + probs[2, end]), abs=1e-5
    )


def test_infonce_scores_are_log_probabilities_among_the_batch() -> None:
    config = dataclasses.replace(CONFIG, loss="infonce", samples=2)
    told = torch.nn.functional.normalize(torch.randn(6, 5), dim=-1)
    seen = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1)
    found = _scores(told, seen, config)
    every = (told @ seen.T / config.temperature_scale).log_softmax(dim=-1)
    assert torch.allclose(found, every[torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])])
    plain = _scores(told, seen, dataclasses.replace(config, loss="cosine"))
    assert torch.allclose(plain, (told * seen.repeat_interleave(2, dim=0)).sum(dim=-1))


def test_settings_are_checked() -> None:
    with pytest.raises(OptionError, match="unknown through"):
        VizerConfig(through="word")
    with pytest.raises(OptionError, match="samples"):
        VizerConfig(samples=1)


def test_what_is_not_given_follows_the_way() -> None:
    states, words = VizerConfig(), VizerConfig(through="words")
    assert (states.kl_weight, states.mapper_sampling) == (0.05, 0.0)
    assert (words.kl_weight, words.mapper_sampling) == (3.0, 1.0)
    given = VizerConfig(through="words", kappa=0.0, mapper_temperature=0.5)
    assert (given.kl_weight, given.mapper_sampling) == (0.0, 0.5)
    with pytest.raises(OptionError, match="kappa"):
        VizerConfig(kappa=-1.0)
