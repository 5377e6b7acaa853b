"""Tuning for Lexical Unit Decoding (arXiv 2405.15208): what is trained, and what is written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import Prompt, as_ids
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import Adapter, with_adapter
from outrider.models.llama.weights import Linear
from outrider.protocols import Segment
from outrider.training.core.loop import StopSignal
from outrider.training.core.state import load_checkpoint
from outrider.training.heads.prompts import PromptFile
from outrider.training.heads.recording import Example
from outrider.training.lud.config import LudRecipe
from outrider.training.lud.fit import Samples, guess_rates, label_chances, text_loss
from outrider.training.lud.train import tune, write
from outrider.training.lud.tuned import Tuned
from outrider.training.lud.units import PAD, beside, in_place, plain
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("lud"), pytest.mark.usefixtures("unchecked")]

IDS = np.array([(7 * i * i + 3) % 280 for i in range(30)])
FIRST = 5
FILE = PromptFile(name="a", file="a.jsonl", form="question", share=1.0, licence="MIT")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return make_checkpoint(tmp_path_factory.mktemp("lud") / "small", "gemma3", **windows)


def changed(source: Path) -> Tuned:
    """A target with random updates and a random pad."""
    tuned = Tuned(Decoder.load(source), rank=2, alpha=4.0, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tuned


def rows_of(model: Decoder, ids: tuple[int, ...], tuned: Tuned) -> torch.Tensor:
    """The logits of all places, as decoding computes them; `PAD` stands for the pad."""
    [cache] = model.start([Prompt(token_ids=(max(ids[0], 0),))])
    segment = Segment(cache, as_ids(ids[1:]), prompts=tuned.pad.detach()[None])
    return model.forward([segment], [as_ids(range(-1, len(ids) - 1))])[0].logits


def test_training_begins_as_the_target(source: Path) -> None:
    tuned, target = Tuned(Decoder.load(source), 2, 4.0, 0), Decoder.load(source)
    own = rows_of(target, tuple(IDS[:-1].tolist()), tuned)[FIRST:]
    torch.testing.assert_close(tuned.pad, target.weights.embed.mean(0))
    torch.testing.assert_close(tuned.logits([plain(IDS, FIRST)]), own, rtol=1e-4, atol=1e-4)
    chances = label_chances(tuned, plain(IDS, FIRST))
    assert chances[:FIRST].tolist() == [0.0] * FIRST  # the prompt has no labels
    true = own.double().softmax(-1)[0, int(IDS[FIRST + 1])]
    assert chances[FIRST] == pytest.approx(float(true), rel=1e-4)


def recipe_of(source: Path, **options: object) -> LudRecipe:
    given = {"name": "a", "target": str(source), "rank": 2, "lora_alpha": 4.0, "held_out": 1}
    return LudRecipe(prompts=(FILE,), **(given | options))  # pyright: ignore[reportArgumentType]


def written(source: Path, tuned: Tuned, folder: Path) -> Decoder:
    """The target with the adapter that is written for it."""
    pad = PromptTokens.of_pad(tuned.pad.detach(), torch.full((3, 1), 0.5), 288)
    losses = {"loss_before": 1.0, "loss_after": 1.0}
    write(folder, recipe_of(source), tuned, pad, losses)
    assert torch.equal(PromptTokens.read_pad(folder).table, pad.table)
    return Decoder.load(with_adapter(open_checkpoint(source), Adapter.load(folder)))


def test_decoding_with_the_written_files_equals_training(source: Path, tmp_path: Path) -> None:
    tuned = changed(source)
    model = written(source, tuned, tmp_path)
    with torch.no_grad():
        text = tuned.logits([plain(IDS, FIRST)])
        both = tuned.logits([in_place(IDS, FIRST, [(8, 12)]), beside(IDS, FIRST, [(8, 12)])])
    base = rows_of(tuned.target, tuple(IDS[:-1].tolist()), tuned)[FIRST:]
    assert (text - base).abs().max() > 0.1
    torch.testing.assert_close(
        text, rows_of(model, tuple(IDS[:-1].tolist()), tuned)[FIRST:], rtol=1e-3, atol=1e-3
    )
    inputs = in_place(IDS, FIRST, [(8, 12)]).ids
    true = rows_of(model, tuple(inputs.tolist()), tuned)[FIRST:]
    torch.testing.assert_close(both[: len(true)], true, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both[len(true) : -3], text, rtol=1e-3, atol=1e-3)
    pads = rows_of(model, (*IDS[:9].tolist(), PAD, PAD, PAD), tuned)[-3:]
    torch.testing.assert_close(both[-3:], pads, rtol=1e-3, atol=1e-3)


def test_tuning_teaches_the_guesses_and_leaves_the_target(source: Path, tmp_path: Path) -> None:
    target = Decoder.load(source)
    before = target.weights.layers[0].down
    assert isinstance(before, Linear)
    kept = before.weight.clone()
    recipe = recipe_of(
        source, alpha=0.0, form="beside", texts=1, passes=40.0, learning_rate=0.01, ranks=2
    )
    examples = [Example(IDS, FIRST), Example(IDS, FIRST)]
    said: list[str] = []
    with StopSignal() as stop:
        pad = tune(recipe, target, examples, tmp_path, tmp_path / "a", stop, said.append)
    assert torch.equal(before.weight, kept)
    assert pad.rates.shape == (3, 2) and pad.rates[:, 0].min() > 0.3
    first = Tuned(target, 2, 4.0, 0)
    assert guess_rates(first, examples, 4, 2)[:, 0].max() < 0.1
    assert "hold 100% of 24 tokens" in said[0]  # alpha 0: the whole answer is one unit
    tuned = Tuned(target, 2, 4.0, 0)
    load_checkpoint(tmp_path / "lud.safetensors", {"lud": tuned}, {})
    assert text_loss(tuned, examples) < 0.9 * text_loss(first, examples)
    own = torch.nn.functional.cross_entropy(
        tuned.logits([plain(IDS, FIRST)]), torch.from_numpy(IDS[FIRST + 1 :])
    )
    assert text_loss(tuned, examples) == pytest.approx(own.item(), rel=1e-4)


def test_half_of_the_texts_stay_as_they_are(source: Path) -> None:
    examples = [Example(IDS + i, FIRST) for i in range(40)]
    samples = Samples(examples, [[(8, 12)]] * 40, recipe_of(source))
    for turn in range(2):
        seen = [samples[number] for number in range(40 * turn, 40 * turn + 40)]
        assert sorted(int(one.ids[0]) for one in seen) == sorted(int(e.ids[0]) for e in examples)
        assert 8 <= sum((one.ids == PAD).any() for one in seen) <= 32
        assert all((one.ids == PAD).sum() in (0, 3) for one in seen)
    order = [[int(samples[i + 40 * turn].ids[0]) for i in range(40)] for turn in range(2)]
    assert order[0] != order[1]
    every = Samples(examples, [[(8, 12)]] * 40, recipe_of(source, plain_share=0.0))
    assert all((every[number].ids == PAD).any() for number in range(40))


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    for options, problem in (
        ({"k": 1}, "k is 1"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"form": "above"}, "above"),
        ({"rank": 0}, "rank is 0"),
    ):
        with pytest.raises(OptionError, match=problem):
            recipe_of(source, **options)
    with pytest.raises(OptionError, match="no prompts"):
        LudRecipe(name="a", target="a", prompts=())
    with StopSignal() as stop, pytest.raises(OptionError, match="held out"):
        one = [Example(IDS, FIRST)]
        tune(recipe_of(source), Decoder.load(source), one, tmp_path, tmp_path, stop, print)
