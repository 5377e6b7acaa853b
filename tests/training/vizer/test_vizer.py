"""What must hold of ViZer, on tiny random models of every shape that captions."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.training.core.loop import TrainingStopped
from outrider.training.vizer.captioner import TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.run import Example, Split, read_captions, train_vizer
from outrider.training.vizer.vizer import adapt_step, collect, fit_mappers, make_optimizer
from tests.models.setups.vision_checkpoints import FAMILIES, make_vision_checkpoint, picture

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore:no evaluation on held-out"),
]

COUNT = 24
SMALL = VizerConfig(
    rank=4,
    alpha=8,
    batch=4,
    longest=6,
    held_out=8,
    mapper_images=12,
    mapper_width=16,
    evaluate_every=2,
    learning_rate=5e-3,
    dropout=0.1,
    kappa=0.05,
    seed=2,
    device="cpu",
)
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_vision_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("image_processor")
    for i in range(COUNT):
        picture(20, 20, seed=i).save(folder / f"{i:02}.png")
    return [Example(folder / f"{i:02}.png", f"picture {i}.") for i in range(COUNT)]


def images(count: int) -> list[Any]:
    """Of two sizes, so that batches are ragged where the model's are."""
    return [picture(20, 20 + 8 * (i % 2), seed=i) for i in range(count)]


def captioner_of(folder: Path, config: VizerConfig = SMALL) -> TrainableCaptioner:
    return TrainableCaptioner.load(folder, config, torch.device("cpu"))


def frozen_hash(captioner: TrainableCaptioner) -> str:
    """Of every weight that is not LoRA's: vision encoder, projector, embeddings, head, stack."""
    digest = hashlib.sha256()
    for name, weight in sorted(captioner.adapted.named_parameters()):
        if "lora_" not in name:
            digest.update(weight.detach().numpy().tobytes())
    return digest.hexdigest()


def reading(
    captioner: TrainableCaptioner, prompts: Any, captions: list[list[int]]
) -> tuple[Any, Any]:
    caption_states = captioner.read(prompts, captions)
    return caption_states.states, captioner.logits(caption_states)


def a_few_steps(captioner: TrainableCaptioner, steps: int = 3) -> None:
    config = captioner.config
    data = collect(captioner, captioner.evaluation(images(8)), None, 0)
    mappers = fit_mappers(data, data, config)
    optimizer, image_batch = make_optimizer(captioner), captioner.evaluation(images(4))
    for step in range(steps):
        adapt_step(captioner, mappers, optimizer, image_batch, None, step=step, steps=steps)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_lora_the_model_is_the_base_and_nothing_else_changes(
    checkpoint: Checkpoint, family: str
) -> None:
    captioner = captioner_of(checkpoint(family))
    image_batch = captioner.evaluation(images(3))
    captions = [[5, 6, 7], [8], [9, 10]]
    with torch.no_grad():
        before = reading(captioner, image_batch.prompts, captions)
    frozen = frozen_hash(captioner)
    a_few_steps(captioner)
    with torch.no_grad():
        adapted = reading(captioner, image_batch.prompts, captions)
        with captioner.as_base():
            after = reading(captioner, image_batch.prompts, captions)
            seen_again = captioner.evaluation(images(3))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[1], adapted[1])
    assert torch.equal(image_batch.features, seen_again.features)
    assert frozen_hash(captioner) == frozen


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_are_those_of_transformers_and_reading_them_gives_their_logits(
    checkpoint: Checkpoint, family: str
) -> None:
    """What is trained on is what the model says: `write` is greedy generation, and the logits of
    `read` choose each of its tokens again."""
    captioner = captioner_of(checkpoint(family))
    image_processor = images(3)
    image_batch = captioner.evaluation(image_processor)
    written = captioner.write(image_batch.prompts)
    with torch.no_grad():
        logits = reading(captioner, image_batch.prompts, written)[1]
    chosen = logits.argmax(dim=-1).tolist()
    at = 0
    for ids in written:
        assert chosen[at : at + len(ids)] == ids
        at += max(len(ids), 1) + 1
    for image, ids in zip(image_processor, written, strict=True):
        message = captioner._asked(image)
        inputs = captioner.image_processor.inputs(message)
        out = captioner.base.generate(**inputs, max_new_tokens=SMALL.longest, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :].tolist()
        cut = next((i for i, t in enumerate(new) if t in captioner.ends), len(new))
        assert new[:cut] == ids


def test_gradients_reach_the_mapper_alone_in_phase_a_and_lora_alone_in_phase_b(
    checkpoint: Checkpoint,
) -> None:
    captioner = captioner_of(checkpoint("idefics3"))
    data = collect(captioner, captioner.evaluation(images(8)), None, 0)
    assert not data[0].states.requires_grad
    assert not data[0].features.requires_grad
    mappers = fit_mappers(data, data, SMALL)
    touched: list[set[str]] = []
    optimizer = make_optimizer(captioner)
    real = optimizer.step

    def note(*args: Any, **kwargs: Any) -> Any:
        named = captioner.adapted.named_parameters()
        touched.append({n for n, p in named if p.grad is not None})
        return real(*args, **kwargs)

    optimizer.step = note  # pyright: ignore[reportAttributeAccessIssue]
    image_batch = captioner.evaluation(images(4))
    adapt_step(captioner, mappers, optimizer, image_batch, None, step=0, steps=2)
    assert touched[0] == set(captioner.trained)
    assert all("lora_" in name and "text_model" in name for name in touched[0])
    assert all(p.grad is None for p in mappers.guide.parameters())


def test_phase_b_reads_no_caption(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    """The same run with and without a text column writes the same adapter, byte for byte."""
    folder = checkpoint("idefics3")
    bare = [Example(e.path) for e in examples]
    train_vizer(folder, examples, tmp_path / "with", SMALL, say=lambda _: None)
    train_vizer(folder, bare, tmp_path / "without", SMALL, say=lambda _: None)
    files = [tmp_path / run / "adapter/adapter_model.safetensors" for run in ("with", "without")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_rate_of_nothing_changes_no_caption_and_training_changes_a_share(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    still = VizerConfig(**{**settings(SMALL), "learning_rate": 1e-30})
    train_vizer(checkpoint("idefics3"), examples, tmp_path / "still", still, say=lambda _: None)
    rows = evaluations(tmp_path / "still")
    assert [row["changed"] for row in rows] == [0.0] * len(rows)
    lively = VizerConfig(**{**settings(SMALL), "learning_rate": 0.05, "patience": 9})
    train_vizer(checkpoint("idefics3"), examples, tmp_path / "lively", lively, say=lambda _: None)
    assert evaluations(tmp_path / "lively")[-1]["changed"] > 0


def test_length_and_variety_stand_beside_every_score(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    train_vizer(checkpoint("llava"), examples, tmp_path, SMALL, say=lambda _: None)
    for row in evaluations(tmp_path):
        assert {"score", "retrieval", "words", "distinct_2", "changed"} <= row.keys()


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    folder = checkpoint("idefics3")
    config = VizerConfig(**{**settings(SMALL), "epochs": 2, "patience": 9})
    train_vizer(folder, examples, tmp_path / "whole", config, say=lambda _: None)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("step 4"):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingStopped):
        train_vizer(folder, examples, tmp_path / "parts", config, say=interrupt)
    train_vizer(folder, examples, tmp_path / "parts", config, say=lines.append)
    assert "phase B continues at step 4" in lines
    whole, parts = (tmp_path / run / "adapter" for run in ("whole", "parts"))
    name = "adapter_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.parametrize("method", ["gt", "labels"])
def test_methods_with_captions_learn_from_them(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path, method: str
) -> None:
    config = VizerConfig(**{**settings(SMALL), "method": method})
    card = train_vizer(checkpoint("idefics3"), examples, tmp_path, config, say=lambda _: None)
    assert card["settings"]["method"] == method
    bare = [Example(e.path) for e in examples]
    with pytest.raises(OptionError, match="has none"):
        train_vizer(checkpoint("idefics3"), bare, tmp_path / "bare", config)


def test_the_adapter_is_peft_s_and_holds_the_text_stack_s_attention_alone(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    folder = checkpoint("idefics3")
    train_vizer(folder, examples, tmp_path, SMALL, say=lambda _: None)
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert all("text_model" in n and "self_attn" in n for n in names)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    captioner = captioner_of(folder)
    assert len(names) == len(captioner.trained)
    missing = [n for n, p in loaded.named_parameters() if "lora_B" in n and not p.any()]
    assert not missing


def test_splits_share_nothing_with_what_is_held_out(examples: list[Example]) -> None:
    split = Split.of(examples, SMALL)
    held = {e.path for e in split.held_out}
    assert len(held) == SMALL.held_out
    assert not held & {e.path for e in split.mapper}
    assert not held & {e.path for e in split.adapt}
    assert len(split.mapper) == SMALL.mapper_images
    assert split == Split.of(examples[::-1], SMALL)
    with pytest.raises(OptionError, match="held out"):
        Split.of(examples[:9], SMALL)


def test_a_folder_of_another_run_is_refused(
    checkpoint: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    train_vizer(checkpoint("idefics3"), examples, tmp_path, SMALL, say=lambda _: None)
    other = VizerConfig(**{**settings(SMALL), "kappa": 1.0})
    with pytest.raises(OptionError, match="kappa"):
        train_vizer(checkpoint("idefics3"), examples, tmp_path, other)


def test_captions_are_read_from_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "a.png", "caption": "a star."}\n')
    assert list(read_captions(file)) == [Example(tmp_path / "a.png", "a star.")]
    file.write_text('{"image": "a.png"}\n')
    with pytest.raises(OptionError, match="line 1"):
        list(read_captions(file))
    with pytest.raises(OptionError, match="cannot be read"):
        list(read_captions(tmp_path / "none.jsonl"))


def settings(config: VizerConfig) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(config)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [row for row in rows if "score" in row]
