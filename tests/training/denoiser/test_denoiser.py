"""Training of a denoiser: the loss, the data, a resumed run, and the files."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from outrider.models.denoisers.loading import load_denoiser
from outrider.protocols.denoiser import Reading
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.core.pairs import folder_of
from outrider.training.core.tokenizer import load_tokenizer
from outrider.training.denoiser.config import DenoiserRecipe, TaskShare
from outrider.training.denoiser.data import SLOT, Pair, Pairs, answers_of, chat_prompt, padded
from outrider.training.denoiser.evaluate import answer_text, task_scores, write
from outrider.training.denoiser.model import (
    MASK,
    DenoisingModel,
    Masked,
    export,
    mask_answers,
    with_mask,
)
from outrider.training.denoiser.train import fit

RECIPE = DenoiserRecipe(
    name="small",
    start="tiny",
    tasks=(TaskShare(name="copy", weight=1.0), TaskShare(name="reverse", weight=1.0)),
    batch=4,
    steps=4,
    warmup_steps=1,
    evaluate_items=1,
    checkpoint_minutes=60.0,
    seed=3,
)
ROOT = Path(__file__).parents[3]


@cache
def tokenizer() -> Tokenizer:
    return with_mask(load_tokenizer(folder_of("tiny", "target")))


def fresh(shifted: bool = True) -> DenoisingModel:
    """The start of a training, with two of its layers, which is enough here."""
    model = DenoisingModel.starting_from(folder_of("tiny", "target"), shifted)
    model.model.model.layers = nn.ModuleList(list(model.model.model.layers)[:2])
    model.model.config.num_hidden_layers = 2
    return model


@cache
def pairs() -> Pairs:
    return Pairs(RECIPE, Path(), tokenizer())


@pytest.mark.parametrize("shifted", [False, True])
def test_the_loss_of_a_text(shifted: bool) -> None:
    """By hand: -(1/(t L)) times the sum of the log-probabilities of masked answer tokens, of rows
    at their own positions or one before, with the whole text read in both directions."""
    model = fresh(shifted)
    mask = model.mask_id
    pair = Pair("x", np.array([5, 6, 7]), np.array([8, 9, 10, 3]))
    masked = torch.tensor([[0, 0, 0, 1, 0, 1, 0]], dtype=torch.bool)
    labels = torch.tensor([[5, 6, 7, 8, 9, 10, 3]])
    share = 0.4
    texts = Masked(
        ids=labels.masked_fill(masked, mask),
        labels=labels,
        seen=torch.ones_like(masked),
        masked=masked,
        weight=torch.full((1, 7), 1 / (share * len(pair.answer))),
    )
    with torch.no_grad():
        attention = torch.ones((1, 1, 7, 7), dtype=torch.bool)
        out = model.model.model(input_ids=texts.ids, attention_mask=attention)
        logits = model.model.lm_head(out.last_hidden_state)[0]
        logits[:, mask] = -torch.inf
        rows = (2, 4) if shifted else (3, 5)
        chances = logits.log_softmax(-1)
        wanted = -(chances[rows[0], 8] + chances[rows[1], 10]) / (share * 4)
        assert model.losses(texts)[0] == pytest.approx(float(wanted), rel=1e-4)


def test_masks_of_answers() -> None:
    """Prompts are never masked, shares are even over a batch, and weights are 1 / (t L)."""
    batch = [Pair("x", np.arange(5, 5 + n), np.full(16, 3)) for n in (3, 9) * 32]
    texts = mask_answers(batch, 4096, 0.02, np.random.default_rng(0))
    assert not texts.masked[~texts.seen].any()
    for row, pair in enumerate(batch):
        assert not texts.masked[row, : len(pair.prompt)].any()
        assert texts.seen[row].sum() == pair.size
    assert (texts.ids[texts.masked] == 4096).all()
    assert (texts.ids[~texts.masked] == texts.labels[~texts.masked]).all()
    shares = 1 / (16 * texts.weight.max(1).values.double())
    ordered = np.sort(shares.numpy())
    assert (np.diff(ordered) < 2.1 / 64).all() and ordered[0] < 0.04 and ordered[-1] > 0.97
    # The expected weight of all masked positions of a text is one.
    weights = (texts.weight * texts.masked).sum(1)
    assert 0.8 < float(weights.mean()) < 1.2


def test_padding_does_not_change_a_loss() -> None:
    model, batch = fresh(), [pairs()[0], pairs()[1]]
    longer = Pair("x", np.arange(5, 95), np.full(16, 3))
    rng = np.random.default_rng
    with torch.no_grad():
        alone = model.losses(mask_answers(batch, model.mask_id, 0.02, rng(1)))
        texts = mask_answers([*batch, longer], model.mask_id, 0.02, rng(1))
        texts.masked[:2], texts.weight[:2] = False, 0.0
        first = mask_answers(batch, model.mask_id, 0.02, rng(1))
        width = first.ids.shape[1]
        for name in ("ids", "masked", "weight"):
            getattr(texts, name)[:2, :width] = getattr(first, name)
        assert model.losses(texts)[:2] == pytest.approx(alone, rel=1e-4)


def test_texts_of_a_training() -> None:
    """A number decides its text; answers end with the end token and fill their slots."""
    again = Pairs(RECIPE, Path(), tokenizer())
    for number in (0, 1, 50):
        one, two = pairs()[number], again[number]
        assert one.prompt.tolist() == two.prompt.tolist()
        assert one.answer.tolist() == two.answer.tolist()
        assert len(one.answer) % SLOT == 0 and one.answer[-1] == 3
    assert len(padded([1] * 7, 3, 0)) == 8 and len(padded([1] * 8, 3, 0)) == 16
    assert len(padded([1], 3, 2)) == 24
    step = again.batch(5)
    assert [p.prompt.tolist() for p in step] == [p.prompt.tolist() for p in pairs().batch(5)]


def test_prompts_and_answers_of_documents() -> None:
    chat = "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\nBye<|end|>\n"
    chat += "<|assistant|>\nSee you.<|end|>\n"
    (lead, hello), (longer, see) = answers_of(chat)
    assert (hello, see) == ("Hello.", "See you.")
    assert lead == chat_prompt("Hi") and longer.endswith("Bye<|end|>\n<|assistant|>\n")
    story = "One day. A fox came. It ran. It fell. The end."
    [(told, next_ones)] = answers_of(story)
    assert told == chat_prompt("Continue the story: One day. A fox came.")
    assert next_ones == "It ran. It fell."


def trained(folder: Path, steps: int, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """Train a fresh model or continue the run in the folder; return its parameters."""
    model, stop, lines = fresh(), StopSignal(), list[str]()
    own = Pairs(RECIPE, Path(), tokenizer())
    plain, count = own.batch, 0

    def batch(step: int) -> list[Pair]:
        nonlocal count
        count += 1
        stop.asked = count == stop_at
        return plain(step)

    own.batch = batch  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    recipe = DenoiserRecipe(
        **{n: getattr(RECIPE, n) for n in RECIPE.__dataclass_fields__} | {"steps": steps}
    )
    fit(model, own, tokenizer(), recipe, folder, stop, lines.append)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_resumed_run_ends_in_the_same_state(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 4)
    with pytest.raises(TrainingStopped):
        trained(tmp_path / "parts", 4, stop_at=2)
    parts = trained(tmp_path / "parts", 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_some_steps_lower_the_loss() -> None:
    model = fresh()
    batch = [pairs()[n] for n in range(8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[float] = []
    for _ in range(6):
        texts = mask_answers(batch, model.mask_id, 0.02, np.random.default_rng(0))
        loss = model.losses(texts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_files_are_read_by_the_runner(tmp_path: Path) -> None:
    """The runner of denoisers predicts what the trained model predicts."""
    model = fresh()
    export(model, tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["OutriderDenoiserForMaskedDiffusion"]
    assert config["mask_token_id"] == 4096 and config["shifted_logits"] is True
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (4097, 256)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id(MASK) == 4096
    runner = load_denoiser(tmp_path, dtype="float32")
    assert set(runner.info.end_ids) == {0, 3}
    for name, value in model.model.named_parameters():
        value.data.copy_(tensors[name].float())
    ids = np.array([5, 6, 7, 4096, 9, 4096])
    [found] = runner.read([Reading(ids=ids, want=np.array([3, 5]))])
    with torch.no_grad():
        text = torch.from_numpy(ids)[None]
        own = model.logits(model.hidden(text, torch.ones_like(text, dtype=torch.bool))[0, [3, 5]])
    assert torch.allclose(found[:, :4096], own[:, :4096], atol=1e-3)


def test_answers_are_written_one_position_a_round() -> None:
    model = fresh()
    prompt = np.array(tokenizer().encode(chat_prompt("Hello")).ids)
    [ids] = write(model, [prompt], 8)
    assert len(ids) == 8 and model.mask_id not in ids
    assert answer_text(np.array([8, 9, 3, 8]), tokenizer()) == tokenizer().decode([8, 9])
    assert set(task_scores(model, tokenizer(), ["copy"], 1)) == {"copy"}


def test_the_recipe_that_ships() -> None:
    recipe = read_table(ROOT / "configs/denoiser/tiny.toml", DenoiserRecipe)
    assert recipe.name == "tiny-diffusion" and len(recipe.tasks) == 18
    assert not any("eval_" in source.file for source in recipe.sources)
