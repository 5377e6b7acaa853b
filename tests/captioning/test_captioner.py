"""Many images: each has the caption that it has alone, or an error of its own."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL")

from PIL import Image

from outrider.captioning.captioner import QUESTION, Caption, Captioner
from outrider.core.errors import MissingExtraError, OptionError
from outrider.engine.generator import Generator
from outrider.engine.load import load
from tests.captioning import tiny_clip
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.vision_checkpoints import make_vision_checkpoint, picture

SETTINGS: dict[str, Any] = {"max_new_tokens": 7, "temperature": 0.8, "seed": 3}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """Qwen2-VL: images of different sizes have different numbers of tokens, and one that is two
    hundred times wider than high is refused by its processor."""
    root = tmp_path_factory.mktemp("vision_model")
    return load(make_vision_checkpoint(root / "target", "qwen2_vl"), dtype="float64", mode="none")


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    """Five good images."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        picture(20 + 8 * number, 24, seed=number).save(path)
    return paths


@pytest.fixture
def bad(tmp_path: Path) -> list[Path]:
    """One that is no image, one that is cut off, one that the model refuses, one that is none."""
    text, cut, wide = tmp_path / "text.png", tmp_path / "cut.jpg", tmp_path / "wide.png"
    text.write_text("no image")
    picture(64, 64).save(cut)
    cut.write_bytes(cut.read_bytes()[:-900])
    Image.new("RGB", (900, 2)).save(wide)
    return [text, cut, wide, tmp_path / "missing.png"]


def alone(generator: Generator, path: Any) -> str:
    return generator.generate(QUESTION, images=[path], **SETTINGS).text.strip()


def texts(captions: Any) -> list[str]:
    found = list(captions)
    assert all(isinstance(one, Caption) and one.error is None for one in found), found
    return [one.text for one in found]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 2, 8])
def test_a_caption_does_not_depend_on_its_batch(
    generator: Generator, album: list[Path], batch_size: int
) -> None:
    expected = [alone(generator, path) for path in album]
    assert len(set(expected)) > 3
    captioner = Captioner(generator, batch_size=batch_size, **SETTINGS)
    assert texts(captioner.caption(album)) == expected
    assert texts(captioner.caption(album[::-1])) == expected[::-1]
    assert texts(captioner.caption([])) == []


def test_paths_names_and_images_may_be_mixed(generator: Generator, album: list[Path]) -> None:
    given = [album[0], str(album[1]), Image.open(album[2]).convert("RGBA")]
    captions = list(Captioner(generator, **SETTINGS).caption(given))
    assert [one.image for one in captions] == given
    assert [one.text for one in captions] == [alone(generator, path) for path in album[:3]]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, 20])
def test_a_bad_image_costs_the_others_nothing(
    generator: Generator, album: list[Path], bad: list[Path], batch_size: int
) -> None:
    mixed = [bad[0], album[0], bad[2], album[1], album[2], bad[1], album[3], album[4], bad[3]]
    captions = list(Captioner(generator, batch_size=batch_size, **SETTINGS).caption(mixed))
    assert [one.image for one in captions] == mixed
    for one in captions:
        if one.image in bad:
            assert one.error is not None
            assert "\n" not in one.error
            assert one.text == ""
            assert set(one.to_dict()) == {"image", "error"}
        else:
            assert one.error is None
            assert one.text == alone(generator, one.image)
    errors = {one.image: str(one.error) for one in captions}
    assert "text, not an image" in errors[bad[0]]
    assert "cut off" in errors[bad[1]]
    assert "aspect ratio" in errors[bad[2]]
    assert "there is no file" in errors[bad[3]]


def test_what_is_no_image_at_all(generator: Generator) -> None:
    [one] = Captioner(generator).caption([17])
    assert one.error == "an image is 17. Give a path or a PIL.Image"


def test_images_are_taken_as_they_are_needed(generator: Generator, album: list[Path]) -> None:
    taken: list[Path] = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(album[len(taken) % 5])
            yield taken[-1]

    captions = Captioner(generator, batch_size=2, **SETTINGS).caption(endless())
    assert not taken
    first = [next(captions) for _ in range(5)]
    assert len(taken) <= 5 + 1 + 2 * 2
    captions.close()
    assert [one.text for one in first] == [alone(generator, path) for path in album]


def test_figures_of_a_caption(generator: Generator, album: list[Path]) -> None:
    [one] = Captioner(generator, "What?", max_new_tokens=3).caption(album[:1])
    figures = one.to_dict()
    assert set(figures) == {"image", "caption", "seconds", "speculation"}
    assert figures["image"] == str(album[0])
    assert figures["seconds"]["total"] > figures["seconds"]["vision"] > 0.0
    assert one.result is not None
    assert one.result.completion_tokens == 3


def test_wrong_settings_are_refused_before_an_image_is_read(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="batch_size is 0"):
        Captioner(generator, batch_size=0)
    with pytest.raises(OptionError, match="the question is empty"):
        Captioner(generator, " ")
    with pytest.raises(OptionError, match="unknown option 'temprature'"):
        Captioner(generator, temprature=1.0)
    blind = load(make_checkpoint(tmp_path / "blind", tokenizer=True), mode="none", dtype="float64")
    with pytest.raises(OptionError, match="does not read images"):
        Captioner(blind)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"outrider\[vision\]"):
        Captioner(generator)


def test_guidance_is_told_and_changes_captions(
    generator: Generator, album: list[Path], tmp_path: Path
) -> None:
    folder = make_vision_checkpoint(tmp_path / "target", "qwen2_vl")
    how: dict[str, Any] = {"dtype": "float64", "mode": "none"}
    guided = Captioner(load(folder, guidance=2.0, **how), **SETTINGS)
    found = list(guided.caption(album))
    assert all(one.to_dict()["guidance"] == 2.0 for one in found)
    plain = [alone(generator, path) for path in album]
    assert [one.text for one in found] != plain
    off = Captioner(load(folder, guidance=1.0, **how), **SETTINGS)
    assert texts(off.caption(album)) == plain
    with pytest.raises(OptionError, match="guidance is -1"):
        load(folder, guidance=-1.0, **how)


def let_say(monkeypatch: pytest.MonkeyPatch, *said: str) -> None:
    """Let the generator say this, one after the other."""
    real, texts = Generator.generate, iter(said)

    def generate(self: Generator, prompts: Any, **sampling: Any) -> Any:
        found: Any = real(self, prompts, **sampling)
        return [dataclasses.replace(one, text=next(texts)) for one in found]

    monkeypatch.setattr(Generator, "generate", generate)


def test_captions_are_scored_and_what_can_not_be_scored_is_kept(
    generator: Generator, album: list[Path], bad: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = tiny_clip.scorer()
    let_say(monkeypatch, "red", " ?", "a blue picture")
    captioner = Captioner(generator, batch_size=3, scorer=scorer, **SETTINGS)
    given = [album[0], bad[0], album[1], album[2]]
    first, failed, silent, last = captioner.caption(given)
    images = [Image.open(path).convert("RGB") for path in (album[0], album[2])]
    expected = scorer.score(images, ["red", "a blue picture"]).tolist()
    assert [first.clip_score, last.clip_score] == pytest.approx(expected)
    assert first.to_dict()["clip_score"] == first.clip_score
    assert (silent.text, silent.clip_score, failed.clip_score) == ("?", None, None)
    assert "clip_score" not in silent.to_dict()


def test_a_scorer_that_fails_costs_no_caption(
    generator: Generator, album: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = tiny_clip.scorer()
    real = tiny_clip.ClipScorer.embed_captions

    def embed(self: Any, captions: Any) -> Any:
        if "green" in captions:
            raise RuntimeError("no memory")
        return real(self, captions)

    monkeypatch.setattr(tiny_clip.ClipScorer, "embed_captions", embed)
    let_say(monkeypatch, "red", "green", "blue")
    told = list(Captioner(generator, scorer=scorer, **SETTINGS).caption(album[:3]))
    assert [one.text for one in told] == ["red", "green", "blue"]
    assert [one.clip_score is None for one in told] == [False, True, False]
