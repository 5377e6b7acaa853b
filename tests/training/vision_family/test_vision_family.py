"""A whole vision-language family, of almost nothing, by the one command."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.captioning.scenes.phrases import Manner
from outrider.core.errors import OptionError
from outrider.training.vision_family.captioner import Spelling, answers
from outrider.training.vision_family.config import ImageSet, load_vision_config
from outrider.training.vision_family.contrast import hit_rate, info_nce
from outrider.training.vision_family.family import train_vision_family
from outrider.training.vision_family.pictures import Pairs, load_set
from tests.models.setups.vision_checkpoints import picture

TOWER = "hidden_size = 32\nlayers = 1\nheads = 2\nffn_size = 48\n"
STAGE = "tokens = 16\nsequence_length = 1\nbatch = 8\nmicro_batch = 8\nlearning_rate = 1e-3\n"
MANNER = "vague = 1\npartial = 1\nexact = 1\n"
MICRO = "\n".join(
    [
        'name = "micro"\nlanguage = "tiny"\nthreads = 1\nscenes = 0.5\nprojection = 16\n',
        *(f"[{name}]\n{TOWER}" for name in ("vision_encoder", "reader", "scorer")),
        *(f"[{name}]\n{STAGE}" for name in ("contrast", "scoring", "see", "speak", "draft")),
        *(f"[{name}]\n{MANNER}" for name in ("read_manner", "see_manner", "speak_manner")),
        '[[sets]]\nname = "dots"\nimages = "dots.tar"\nrecords = "dots.jsonl.gz"\nheld_out = 3\n',
    ]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(folder / "dots.tar", "w") as tar:
        for i in range(6):
            held = io.BytesIO()
            picture(30, 20, seed=i).save(held, "PNG")
            info = tarfile.TarInfo(f"{i}.png")
            info.size = held.tell()
            tar.addfile(info, io.BytesIO(held.getvalue()))
    lines = [
        {"file": f"{i}.png", "caption": f"Dots  number {i}", "split": "train" if i < 4 else "test"}
        for i in range(6)
    ]
    with gzip.open(folder / "dots.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def family(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    (out / "micro.toml").write_text(MICRO)
    module = "outrider.training.vision_family"
    with pytest.MonkeyPatch.context() as patch:  # figures of a model that has learned nothing
        for count in ("captioner._HELD_OUT", "contrast._HELD_OUT", "family._CARD_SCENES"):
            patch.setattr(f"{module}.{count}", 12)
        train_vision_family(out / "micro.toml", out=out, data=data)
    return out / "family"


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_captioner_loads_in_transformers_and_in_outrider(family: Path) -> None:
    import outrider
    from outrider.captioning.scenes.scenes import Scenes

    generator = outrider.load(
        str(family / "target"), draft=str(family / "draft"), drafter="model", dtype="float32"
    )
    result = generator.generate("Describe it.", images=[Scenes(seed=1).image(0)], max_new_tokens=4)
    assert len(result.token_ids) == 4


def test_the_scorer_is_a_clip_like_any_other(family: Path) -> None:
    from outrider.captioning.metrics.clip import ClipScorer
    from outrider.captioning.scenes.scenes import Scenes

    scorer = ClipScorer.load(family / "scorer")
    scores = scorer.score([Scenes(seed=1).image(i) for i in range(2)], ["a star.", "a square."])
    assert scores.shape == (2,)


def test_a_finished_run_does_nothing_when_it_is_started_again(
    family: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (family / "target/model.safetensors").stat().st_mtime_ns
    train_vision_family(family.parent / "micro.toml", out=family.parent, data=data)
    assert (family / "target/model.safetensors").stat().st_mtime_ns == before
    assert "stage=" not in capsys.readouterr().out


def test_the_prompt_is_spelled_as_the_exported_processor_spells_it(family: Path) -> None:
    from transformers import AutoTokenizer

    from outrider.captioning.scenes.scenes import Scenes
    from outrider.core.types import ImagePrompt
    from outrider.models.vision.processor import ImageProcessor

    config = load_vision_config(family.parent / "micro.toml")
    tokenizer: Any = AutoTokenizer.from_pretrained(family / "target")
    spelling = Spelling.of(tokenizer, config.question, config.image_tokens)
    from transformers import AutoConfig

    shape = AutoConfig.from_pretrained(family / "target")
    image_processor = ImageProcessor.load(family / "target", shape, name="micro")
    parts = [{"type": "image"}, {"type": "text", "text": config.question}]
    asked = ImagePrompt(
        messages=({"role": "user", "content": parts},), images=(Scenes(seed=1).image(0),)
    )
    assert tuple(image_processor.inputs(asked)["input_ids"][0].tolist()) == spelling.prompt


def test_sets_are_read_reduced_and_partly_held_out(data: Path) -> None:
    which = ImageSet(name="dots", images="dots.tar", records="dots.jsonl.gz", held_out=3)
    loaded = load_set(which, data, 16)
    assert loaded.pixels.shape == (6, 16, 16, 3)
    assert loaded.texts[0] == "dots number 0."
    assert loaded.held_out == (2, 5)
    some = ImageSet(
        name="dots", images="dots.tar", records="dots.jsonl.gz", only="split=train", held_out=0
    )
    assert len(load_set(some, data, 16).texts) == 4
    with pytest.raises(OptionError, match="no image set"):
        load_set(ImageSet(name="x", images="x.tar", records="dots.jsonl.gz"), data, 16)
    with pytest.raises(OptionError, match="no records"):
        load_set(ImageSet(name="x", images="dots.tar", records="x.gz"), data, 16)


def test_pairs_go_by_their_number_and_never_show_what_is_held_out(data: Path) -> None:
    which = ImageSet(name="dots", images="dots.tar", records="dots.jsonl.gz", held_out=3)
    manner = Manner(vague=1, partial=1, exact=1)
    pairs = Pairs(manner, [load_set(which, data, 16)], [1.0], 0.5, 7, 16)
    pixels, texts = pairs.batch(10, 4)
    again, same = pairs.batch(8, 4)
    assert torch.equal(pixels[:2], again[2:])
    assert texts[:2] == same[2:]
    assert pairs.texts(10, 4) == texts
    many = set(pairs.texts(0, 200))
    assert "dots number 0." in many
    assert not {"dots number 2.", "dots number 5."} & many
    assert -1 <= float(pixels.min()) <= float(pixels.max()) <= 1


def test_padding_is_not_learned() -> None:
    class Letters:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [ord(c) for c in text]

    ids, labels = answers(Letters(), ["ab", "c"], 3)
    assert ids.tolist() == [[97, 98, 3], [99, 3, 3]]
    assert labels.tolist() == [[97, 98, 3], [99, 3, -100]]


def test_the_contrastive_loss_knows_pairs_from_others() -> None:
    images = torch.nn.functional.normalize(torch.randn(8, 5), dim=-1)
    assert info_nce(images, images, 50.0) < 0.1 < 1.5 < info_nce(images, images.roll(1, 0), 50.0)
    assert hit_rate(images, images) == 1.0
    assert hit_rate(images, images.roll(1, 0)) == 0.0


def test_a_wrong_configuration_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(MICRO.replace("projection = 16", "projection = 16\nimage_size = 60"))
    with pytest.raises(OptionError, match="image_size 60"):
        load_vision_config(file)
    file.write_text(MICRO.replace("hidden_size", "hiden_size", 1))
    with pytest.raises(OptionError, match="hiden_size"):
        load_vision_config(file)
    file.write_text(MICRO)
    with pytest.raises(OptionError, match="no data directory"):
        train_vision_family(file, out=tmp_path)
