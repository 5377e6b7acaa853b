"""ViZer on the captioner that ships, over drawn scenes that it has not seen."""

from pathlib import Path

import pytest
import torch

from outrider.captioning.metrics.attributes import Facts, all_facts
from outrider.captioning.scenes.scenes import Scenes
from outrider.models.sources.families import family
from outrider.training.vizer.captioner import TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.data import Example
from outrider.training.vizer.mapper import Vectors, train_mapper
from outrider.training.vizer.run import train_vizer
from outrider.training.vizer.vizer import collect, shuffled

CONFIG = VizerConfig(
    through="words",
    samples=6,
    kappa=3.0,
    mapper_images=600,
    mapper_epochs=30,
    mapper_temperature=1.0,
    learning_rate=6e-4,
    batch=8,
    images=200,
    held_out=64,
    evaluate_every=25,
    longest=40,
    device="cpu",
)
COUNT, HELD_OUT = 160, 64


@pytest.fixture(scope="module")
def captioner() -> TrainableCaptioner:
    return TrainableCaptioner.load(family("tiny-vision")["target"], CONFIG, torch.device("cpu"))


@pytest.fixture(scope="module")
def vectors(captioner: TrainableCaptioner) -> Vectors:
    """Of the model's own sampled captions, read with their images."""
    scenes = Scenes(seed=31)
    parts = [
        collect(
            captioner, captioner.evaluation([scenes.image(i) for i in range(s, s + 32)]), None, s
        )[0]
        for s in range(0, COUNT + HELD_OUT, 32)
    ]
    return Vectors(
        torch.cat([part.states for part in parts]), torch.cat([part.features for part in parts])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_phase_a_lowers_the_loss_and_lifts_retrieval_and_shuffled_pairs_do_not(
    vectors: Vectors,
) -> None:
    data, held_out = vectors.part(slice(0, COUNT)), vectors.part(slice(COUNT, None))
    _, found = train_mapper(data, CONFIG, held_out)
    assert found["loss"] < 0.5 * found["loss_untrained"]
    assert found["retrieval"] > 10 * found["chance"]
    assert found["cosine"] > found["cosine_constant"] + 0.3
    _, mixed = train_mapper(shuffled(data, CONFIG), CONFIG, held_out)
    assert mixed["retrieval"] < 4 * mixed["chance"]
    assert mixed["cosine"] < found["cosine_constant"] + 0.05


@pytest.mark.slow
def test_captions_say_more_that_is_true_and_no_more_that_is_not(tmp_path: Path) -> None:
    """Attribute recall rises by five points at least; the hallucination rate does not."""
    train, test = Scenes(seed=32), Scenes(seed=33)
    examples = []
    for i in range(864):
        train.image(i).save(tmp_path / f"{i:04}.png")
        examples.append(Example(tmp_path / f"{i:04}.png"))
    base = family("tiny-vision")["target"]
    train_vizer(base, examples, tmp_path / "run", CONFIG, say=print)

    def facts(adapter: str | None) -> Facts:
        captioner = TrainableCaptioner.load(base, CONFIG, torch.device("cpu"))
        if adapter:
            captioner.adapted.load_adapter(adapter, "trained")
            captioner.adapted.set_adapter("trained")
            captioner.adapted.eval()
        texts: list[str] = []
        for start in range(0, 256, 32):
            image_batch = captioner.evaluation([test.image(i) for i in range(start, start + 32)])
            texts += captioner.decode(captioner.write(image_batch.prompts))
        return all_facts(texts, [test.truth(i) for i in range(256)])

    before, after = facts(None), facts(str(tmp_path / "run/adapter"))
    assert after.recall > before.recall + 0.05
    assert after.hallucination_rate < before.hallucination_rate + 0.01


def test_the_family_has_room_to_improve_and_fits_its_bounds() -> None:
    tiers = family("tiny-vision")
    assert set(tiers) == {"target", "draft"}
    folder = tiers["target"].parent
    whole = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert whole < 30e6
