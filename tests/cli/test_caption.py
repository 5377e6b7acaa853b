"""`outrider caption`: what is printed, what is kept, and what is wrong with it."""

import dataclasses
import inspect
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL")

from PIL import Image

from outrider.cli.commands.caption import caption
from outrider.cli.commands.generate import generate
from outrider.cli.options.groups import grouped
from outrider.cli.options.options import Runtime, Sampling, Speculation, Tiers
from outrider.cli.ui.caption_file import CaptionFile
from outrider.cli.ui.progress import ImageProgress
from outrider.cli.ui.render import Screen
from outrider.core.errors import OptionError
from tests.captioning import tiny_clip
from tests.cli.conftest import Family, Run
from tests.models.setups.adapting import adapted
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.vision_checkpoints import make_vision_checkpoint, picture


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small image-text model."""
    folder = make_vision_checkpoint(tmp_path_factory.mktemp("vision_model") / "llava", "llava")
    options = ["--target", str(folder), "--dtype", "float32", "--max-new-tokens", "6"]
    return [*options, "--temperature", "0.9", "--seed", "1", "--threads", "1"]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "deep/c.webp")):
        picture(24, 20, seed=number).save(folder / name)
    return folder


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_image_is_its_caption_and_figures_on_standard_error(
    run: Run, vision_model: list[str], album: Path
) -> None:
    outcome = run("caption", album / "a.png", *vision_model)
    assert outcome.code == 0
    [record] = lines(run("caption", album / "a.png", *vision_model, "--json").out)
    assert outcome.out == f"{record['caption']}\n"
    assert "6 tokens" in outcome.err
    assert "exact (identical)" in outcome.err


def test_several_images_are_a_line_each_in_order(
    run: Run, vision_model: list[str], album: Path
) -> None:
    plain, records = (
        run("caption", album, *vision_model),
        lines(run("caption", album, *vision_model, "--json").out),
    )
    names = [str(album / name) for name in ("a.png", "b.jpg", "deep/c.webp")]
    assert [record["image"] for record in records] == names
    assert plain.out.splitlines() == [
        f"{record['image']}: {' '.join(record['caption'].split())}" for record in records
    ]
    assert "3 images captioned" in plain.err
    assert plain.code == 0
    for record in records:
        assert set(record) == {"image", "caption", "seconds", "speculation"}


def test_batches_drafters_and_trees_change_no_caption(
    run: Run, vision_model: list[str], album: Path
) -> None:
    plain = run("caption", album, *vision_model, "--mode", "none").out
    for options in (["--batch-size", "1"], ["--drafter", "lookup"], ["--drafter", "recycling"]):
        assert run("caption", album, *vision_model, *options).out == plain


def test_a_bad_image_is_an_exit_code_and_nothing_else(
    run: Run, vision_model: list[str], album: Path
) -> None:
    good = lines(run("caption", album, *vision_model, "--json").out)
    (album / "aa.png").write_text("no image")
    outcome = run("caption", album, *vision_model, "--json")
    records = lines(outcome.out)
    assert outcome.code == 1
    assert set(records[1]) == {"image", "error"}
    assert records[1]["error"].startswith(f"{album / 'aa.png'} is text, not an image")
    assert [r.get("caption") for r in records if "error" not in r] == [r["caption"] for r in good]
    plain = run("caption", album, *vision_model)
    assert plain.code == 1
    assert len(plain.out.splitlines()) == 3
    assert f"error: {album / 'aa.png'} is text, not an image" in plain.err
    assert "3 images captioned" in plain.err and "1 failed" in plain.err
    alone = run("caption", album / "aa.png", *vision_model)
    assert (alone.code, alone.out) == (1, "")
    assert alone.error.startswith(f"{album / 'aa.png'} is text, not an image")


def test_a_missing_image_among_others(run: Run, vision_model: list[str], album: Path) -> None:
    outcome = run("caption", album / "gone.png", album / "a.png", *vision_model, "--json")
    assert outcome.code == 1
    assert ["error" in record for record in lines(outcome.out)] == [True, False]


def test_the_question_is_what_is_asked(run: Run, vision_model: list[str], album: Path) -> None:
    image = album / "a.png"
    asked = [
        run("caption", image, *vision_model, name, "Why?").out
        for name in ("--question", "--prompt")
    ]
    assert asked[0] == asked[1] != run("caption", image, *vision_model).out


def test_guidance(run: Run, vision_model: list[str], album: Path) -> None:
    plain, off, on = (
        lines(run("caption", album, *vision_model, "--json", *more).out)
        for more in ([], ["--guidance", "1"], ["--guidance", "3"])
    )
    told = [[record["caption"] for record in records] for records in (plain, off, on)]
    assert told[0] == told[1] != told[2]
    assert [record.get("guidance") for record in plain + on] == [None] * 3 + [3.0] * 3


def test_an_adapter_of_the_target_and_one_of_another_model(
    run: Run, vision_model: list[str], album: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    adapted(AutoModelForImageTextToText.from_pretrained(vision_model[1]), tmp_path / "own")
    other = make_checkpoint(tmp_path / "other", hidden_size=48)
    adapted(AutoModelForCausalLM.from_pretrained(other), tmp_path / "foreign")
    plain = run("caption", album, *vision_model)
    own = run("caption", album, *vision_model, "--adapter", tmp_path / "own")
    assert (plain.code, own.code) == (0, 0)
    assert own.out != plain.out
    foreign = run("caption", album, *vision_model, "--adapter", tmp_path / "foreign")
    assert (foreign.code, foreign.out) == (2, "")
    assert "foreign" in foreign.error


def test_every_option_of_generate_about_models_and_sampling_is_there() -> None:
    ours = set(inspect.signature(grouped(caption)).parameters)
    groups = (Tiers, Speculation, Sampling, Runtime)
    theirs = {field.name for group in groups for field in dataclasses.fields(group)}
    assert len(theirs) > 25
    assert theirs <= ours
    assert theirs <= set(inspect.signature(grouped(generate)).parameters)


def test_scores_stand_in_lines_and_in_figures(
    run: Run, vision_model: list[str], album: Path, tmp_path: Path
) -> None:
    clip = tiny_clip.save(tiny_clip.scorer(), tmp_path / "clip")
    plain, scored = (
        run("caption", album, *vision_model, "--json", *more)
        for more in ([], ["--score", str(clip)])
    )
    found = lines(scored.out)
    assert [r["caption"] for r in found] == [r["caption"] for r in lines(plain.out)]
    values = [r["clip_score"] for r in found if "clip_score" in r]
    assert values
    assert f", CLIPScore {sum(values) / len(values):.3f}" in scored.err
    assert "CLIPScore" not in plain.err
    out = tmp_path / "captions.jsonl"
    run("caption", album, *vision_model, "--out", out, "--score", clip)
    assert [r.get("clip_score") for r in lines(out.read_text())] == pytest.approx(
        [r.get("clip_score") for r in found]
    )
    wrong = run("caption", album, *vision_model, "--score", vision_model[1])
    assert (wrong.code, wrong.out) == (2, "")


def test_names_that_are_no_unicode_and_names_of_two_lines(
    run: Run, vision_model: list[str], album: Path, tmp_path: Path
) -> None:
    (album / "a.png").rename(album / "two\nlines.png")
    try:
        (album / "b.jpg").rename(os.fsdecode(os.fsencode(album) + b"/b\xff.jpg"))
    except OSError:
        pytest.skip("this file system has names in Unicode alone")
    out = tmp_path / "captions.jsonl"
    assert run("caption", album, *vision_model, "--out", out).code == 0
    records = lines(out.read_text("utf-8"))
    assert {record["image"] for record in records} == {str(p) for p in album.rglob("*.*")}
    again = run("caption", album, "--target", "nowhere", "--out", out)
    assert (again.code, "3 images of 3" in again.err) == (0, True)
    assert len(run("caption", album, *vision_model).out.splitlines()) == 3


# -- a file that is gone on with ------------------------------------------------------------


def test_a_run_goes_on_where_it_was(run: Run, vision_model: list[str], album: Path) -> None:
    out = album.parent / "captions.jsonl"
    (album / "aa.png").write_text("no image")
    whole = lines(run("caption", album, *vision_model, "--json").out)
    first = run("caption", album / "a.png", album / "aa.png", *vision_model, "--out", out)
    assert (first.code, first.out) == (1, "")
    assert "1 image captioned" in first.err
    with out.open("a") as file:
        file.write('{"image": "half a li')
    picture(24, 20, seed=9).save(album / "aa.png")  # repaired
    second = run("caption", album, *vision_model, "--out", out)
    assert second.code == 0
    assert "1 image of 4 captioned" in second.err and "skipped" in second.err
    records = lines(out.read_text())
    names = [Path(record["image"]).name for record in records]
    assert names == ["a.png", "aa.png", "aa.png", "b.jpg", "c.webp"]
    assert ["error" in record for record in records] == [False, True, False, False, False]
    kept = {record["image"]: record.get("caption") for record in records}
    assert all(kept[r["image"]] == r["caption"] for r in whole if "caption" in r)
    before = out.read_bytes()
    third = run("caption", album, "--target", "nowhere", "--out", out)
    assert (third.code, out.read_bytes()) == (0, before)


@pytest.mark.parametrize(
    ("content", "done", "kept"),
    [
        (b"", [], b""),
        (b'{"image": "a", "caption": "x"}\n', ["a"], b'{"image": "a", "caption": "x"}\n'),
        (b'{"image": "a", "caption": "x"}', ["a"], b'{"image": "a", "caption": "x"}\n'),
        (b'{"image": "a", "caption": "x"}\n{"im', ["a"], b'{"image": "a", "caption": "x"}\n'),
        (b'{"image": "a", "error": "x"}\n\n', [], b'{"image": "a", "error": "x"}\n\n'),
        (b'{"image": "a", "caption": ""}\n', ["a"], b'{"image": "a", "caption": ""}\n'),
        (b'{"ima', [], b""),
        ('{"image": "é", "caption": "ü"}\n{"image": "\xfc'.encode()[:-1], ["é"], None),
    ],
)
def test_what_a_file_of_captions_may_hold(
    content: bytes, done: list[str], kept: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_bytes(content)
    with CaptionFile(path) as file:
        assert sorted(file.done) == done
        file.write({"image": "ß", "caption": "y"})
    last = '{"image": "ß", "caption": "y"}\n'.encode()
    assert path.read_bytes().endswith(b"\n" + last) or path.read_bytes() == last
    if kept is not None:
        assert path.read_bytes() == kept + last


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    for content in ("notes\nof mine\n", '{"text": "x"}\n{"text": "y"}\n', "[1]\n[2]\n"):
        path = tmp_path / "notes.jsonl"
        path.write_text(content)
        with pytest.raises(OptionError, match="line 1 is not a caption"):
            CaptionFile(path)
        assert path.read_text() == content


def test_files_that_can_not_be_written(run: Run, album: Path) -> None:
    for place in (album, album / "none" / "out.jsonl"):
        outcome = run("caption", album, "--target", "nowhere", "--out", place)
        assert outcome.code == 2
        assert "cannot be written" in outcome.error


# -- what ends it early ---------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done(
    run: Run, vision_model: list[str], album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ImageProgress.step

    def interrupted(self: ImageProgress, failed: int) -> None:
        step(self, failed)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ImageProgress, "step", interrupted)
    outcome = run("caption", album, *vision_model, "--json", "--batch-size", "1")
    assert outcome.code == 130
    assert [Path(record["image"]).name for record in lines(outcome.out)] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none/*.png"], "holds no images"),
        (["missing.png"], "there is no image at"),
        (["a.png", "--batch-size", "0"], "batch-size"),
        (["a.png", "--out", "x.jsonl", "--json"], "--out and --json cannot be combined"),
        (["a.png", "--temperature", "-1"], "temperature is -1"),
        (["a.png", "--question", " "], "the question is empty"),
        (["a.png", "--guidance", "-1"], "guidance is -1"),
        (["a.png", "--guidance", "nan"], "guidance is nan"),
        (["a.png", "--adapter", "nowhere"], "nowhere"),
        (["a.png", "--n", "2"], "--n"),
    ],
)
def test_wrong_input_is_refused_before_models_are_loaded(
    arguments: list[str], problem: str, run: Run, family: Family, tmp_path: Path, monkeypatch: Any
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("outrider.engine.build.load_model", loaded)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    outcome = run("caption", *arguments, "--target", family.target)
    assert outcome.code == 2
    assert problem in outcome.error


def test_a_target_that_does_not_see(run: Run, family: Family, album: Path) -> None:
    outcome = run("caption", album, *family.alone)
    assert outcome.code == 2
    assert outcome.error.startswith("images are given, but model target does not read images")


# -- the bar --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_stands_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    screen = Screen("always")
    with ImageProgress(screen, 3) as bar:
        bar.step(0)
        with bar.aside():
            screen.write("one\n")
        bar.step(1)
    assert isinstance(sys.stdout, io.StringIO) and sys.stdout.getvalue() == "one\n"
    assert isinstance(sys.stderr, io.StringIO)
    assert "1/3" in sys.stderr.getvalue() and "1 failed" in sys.stderr.getvalue()
