"""What may go wrong while ViZer trains: bad images, interruptions, scores that do not rise."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import CheckpointError, LogitsError, OptionError, OutriderWarning
from outrider.training.core.loop import TrainingStopped
from outrider.training.vizer.captioner import TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.data import Example, Gallery, Split, read_captions
from outrider.training.vizer.run import _Progress, train_vizer
from outrider.training.vizer.vizer import (
    _log_likelihoods,
    adapt_step,
    collect,
    fit_mappers,
    make_optimizer,
)
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.vision_checkpoints import make_vision_checkpoint, picture

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore:no evaluation on held-out"),
]

SMALL = VizerConfig(
    rank=4,
    alpha=8,
    batch=4,
    longest=4,
    held_out=6,
    mapper_images=40,
    mapper_width=16,
    evaluate_every=2,
    learning_rate=5e-3,
    patience=9,
    temperature=0.7,
    mapper_temperature=0.7,
    device="cpu",
)
COUNT = 44
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_checkpoint(tmp_path_factory.mktemp("llava"), "llava")


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    (tmp_path / "images").mkdir()
    made = [Example(tmp_path / "images" / f"{i:02}.png", f"picture {i}.") for i in range(COUNT)]
    for i, example in enumerate(made):
        picture(16, 16, seed=i).save(example.path)
    return made


def train(folder: Path, examples: list[Example], out: Path, **more: Any) -> dict[str, Any]:
    say: Callable[[str], None] = more.pop("say", lambda _: None)
    return train_vizer(folder, examples, out, dataclasses.replace(SMALL, **more), say)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


# -- images ---------------------------------------------------------------------------------


def test_bad_images_are_left_out_told_once_and_counted(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    split = Split.of(examples, SMALL)
    bad = [split.held_out[1], split.mapper[3], split.adapt[-1]]
    bad[0].path.write_text("no image")
    bad[1].path.unlink()
    bad[2].path.write_bytes(bad[2].path.read_bytes()[:60])
    caption_states: list[str] = []
    card = train(folder, examples, tmp_path / "run", say=caption_states.append, epochs=2)
    assert card["images_left_out"].keys() == {str(e.path) for e in bad}
    for example in bad:
        assert (
            sum(
                line.startswith("left out") and str(example.path) in line for line in caption_states
            )
            == 1
        )
    assert caption_states[-1] == "3 images were left out; run.json says why"
    captions = json.loads((tmp_path / "run/base_captions.json").read_text())
    assert len(captions) == SMALL.held_out - 1
    assert card["phase_b"]["step"] == 2 * ((COUNT - SMALL.held_out) // SMALL.batch)


@pytest.mark.slow
def test_bad_images_change_nothing_for_interrupted_runs(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    Split.of(examples, SMALL).mapper[2].path.write_text("no image")
    train(folder, examples, tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        train(folder, examples, tmp_path / "parts", say=stopping("phase A, mapper: 32"))
    train(folder, examples, tmp_path / "parts")
    assert (tmp_path / "whole" / ADAPTER).read_bytes() == (
        tmp_path / "parts" / ADAPTER
    ).read_bytes()


def test_an_image_that_the_model_refuses_costs_the_others_nothing(tmp_path: Path) -> None:
    captioner = TrainableCaptioner.load(
        make_vision_checkpoint(tmp_path, "qwen2_vl"), SMALL, torch.device("cpu")
    )
    made = [Example(tmp_path / f"{i}.png") for i in range(3)]
    for example, size in zip(made, ((24, 20), (1, 400), (20, 24)), strict=True):
        picture(*size).save(example.path)
    caption_states: list[str] = []
    gallery = Gallery(captioner, caption_states.append)
    kept, image_batch = gallery.evaluation(made)
    assert kept == [made[0], made[2]]
    assert image_batch is not None
    alone = torch.cat([captioner.evaluation([e.image()]).features for e in kept])
    assert torch.allclose(image_batch.features, alone, atol=1e-5)
    assert gallery.evaluation([made[1]]) == ([], None)
    assert len(caption_states) == 1
    assert caption_states[0].startswith(f"left out: {made[1].path}: the processor of")


def test_a_run_without_a_good_image_says_so(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    split = Split.of(examples, SMALL)
    for example in split.held_out[1:]:
        example.path.write_text("no image")
    with pytest.raises(OptionError, match="only 1 of the held-out images can be used"):
        train(folder, examples, tmp_path / "few")
    for example in split.mapper:
        example.path.write_text("no image")
    with pytest.raises(OptionError, match="none of 38 images can be used"):
        train(folder, examples, tmp_path / "none")


# -- interruptions ---------------------------------------------------------------------------


def stopping(*marks: str) -> Callable[[str], None]:
    """Says nothing, and asks for a stop after lines that begin like this."""

    def say(line: str) -> None:
        if line.startswith(marks):
            os.kill(os.getpid(), signal.SIGINT)

    return say


@pytest.mark.slow
def test_a_run_interrupted_anywhere_ends_as_if_it_had_not_been(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(folder, examples, whole)
    for mark in ("phase A, mapper: 32", "phase A, held_out", "step 0", "step 4"):
        with pytest.raises(TrainingStopped):
            train(folder, examples, parts, say=stopping(mark))
    # As a run leaves it that was killed after its checkpoint.
    with (parts / "curve.jsonl").open("a") as file:
        file.write('{"step": 5, "align": 9.0}\n{"step": 6, "al')
    card = train(folder, examples, parts)
    assert (whole / ADAPTER).read_bytes() == (parts / ADAPTER).read_bytes()
    curves = [[row | {"seconds": 0} for row in rows(out)] for out in (whole, parts)]
    assert curves[0] == curves[1]
    again = train(folder, examples, parts)
    assert again["phase_b"] == card["phase_b"]


# -- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "kept", "stale", "helped"),
    [
        ([0.6], [0], 0, True),
        ([0.4, 0.45, 0.3], [0, 1], 3, False),
        ([0.4, 0.6, 0.5], [0, 1], 1, True),
        ([0.6, 0.6, 0.7], [0, 2], 0, True),
        ([0.5, 0.5], [0], 2, False),
    ],
)
def test_the_best_look_is_kept_and_only_rises_above_all_before_count(
    scores: list[float], kept: list[int], stale: int, helped: bool
) -> None:
    at = _Progress(base=0.5)
    found = [i for i, score in enumerate(scores) if at.judge(score)]
    assert (found, at.stale, at.helped) == (kept, stale, helped)
    assert at.best == max(scores)


def test_training_ends_after_looks_without_a_rise_and_says_that_the_base_is_better(
    folder: Path, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, falling = _Progress.judge, iter((-2.0, -3.0, -4.0))
    monkeypatch.setattr(_Progress, "judge", lambda at, _score: real(at, next(falling)))
    with pytest.warns(OutriderWarning, match="no evaluation on held-out captions was better"):
        card = train(folder, examples, tmp_path, patience=2)
    assert card["phase_b"]["helped"] is False
    assert (card["phase_b"]["step"], card["phase_b"]["best_step"]) == (4, 2)
    assert (tmp_path / ADAPTER).is_file()


def test_a_loss_that_is_no_number_ends_training_and_touches_no_weight(folder: Path) -> None:
    captioner = TrainableCaptioner.load(folder, SMALL, torch.device("cpu"))
    image_batch = captioner.evaluation([picture(16, 16, seed=i) for i in range(4)])
    data = collect(captioner, image_batch, None, 0)
    mappers = fit_mappers(data, data, SMALL)
    broken = next(iter(captioner.trained.values()))
    with torch.no_grad():
        broken.fill_(torch.nan)
    before = {name: p.clone() for name, p in captioner.trained.items()}
    with pytest.raises(LogitsError, match="learning-rate"):
        greedy = dataclasses.replace(SMALL, temperature=0.0)
        captioner.config = greedy
        adapt_step(
            captioner, mappers, make_optimizer(captioner), image_batch, None, step=0, steps=2
        )
    after = captioner.trained
    assert all(torch.equal(p.nan_to_num(), after[n].nan_to_num()) for n, p in before.items())


def test_a_caption_that_was_cut_teaches_no_end(folder: Path) -> None:
    captioner = TrainableCaptioner.load(folder, SMALL, torch.device("cpu"))
    ids = [[5, 6, 7, 8], [5, 6]]
    question = captioner.question
    with torch.no_grad():
        caption_states = captioner.read([question] * 2, ids)
        found = _log_likelihoods(captioner, captioner.logits(caption_states), ids, 1.0)
        probs = captioner.logits(caption_states).log_softmax(dim=-1)
    own = [probs[i, token] for i, token in enumerate([5, 6, 7, 8])]
    short = [probs[5 + i, token] for i, token in enumerate([5, 6, captioner.end])]
    assert torch.allclose(found, torch.stack([sum(own), sum(short)]))  # pyright: ignore


# -- what is refused ---------------------------------------------------------------------------


def test_what_can_not_be_trained_is_refused_and_leaves_the_folder_usable(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    blind = make_checkpoint(tmp_path / "blind", tokenizer=True)
    with pytest.raises(CheckpointError, match="no vision part"):
        train(blind, examples, out)
    with pytest.raises(OptionError, match="phase B has 2 images"):
        train(folder, examples, out, images=2)
    with pytest.raises(OptionError, match="cannot be created"):
        train(folder, examples, examples[0].path)
    with pytest.raises(TrainingStopped):
        train(folder, examples, out, say=stopping("phase A"))
    renamed = [*examples[:-1], Example(tmp_path / "other.png")]
    with pytest.raises(OptionError, match="images_fingerprint"):
        train(folder, renamed, out)


def test_captions_that_are_none_are_refused_and_long_ones_are_counted(
    folder: Path, examples: list[Example], tmp_path: Path
) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "a.png", "caption": "a star."}\n\n')
    assert len(list(read_captions(file))) == 1
    file.write_text('{"image": "a.png", "caption": null}\n')
    with pytest.raises(OptionError, match=r"line 1 .* not None"):
        list(read_captions(file))
    caption_states: list[str] = []
    train(folder, examples, tmp_path / "run", method="gt", say=caption_states.append)
    assert caption_states[0] == f"{COUNT} of {COUNT} captions are longer than 4 tokens and are cut"
